"""POST /v2/audio/transcriptions. Nothing is transcribed: the text says how long the recording is.

The form is read in its order: what follows the file is ignored, because Cohere's compatibility API wants the file
last. The sentences of the errors are guessed.
Source: docs/cohere-api.md#transcription.
"""

from __future__ import annotations

import io
import wave

from gateway.emulator.errors import bad_request, invalid_request
from gateway.emulator.multipart import Part
from gateway.emulator.request import Request, Response

EXTENSIONS = ("flac", "mp3", "mpeg", "mpga", "ogg", "wav")
MAX_BYTES = 25 * 1024 * 1024
LANGUAGES = ("ar", "de", "el", "en", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "vi", "zh")
FIELDS = ("model", "language", "temperature")


def handle(request: Request) -> Response:
    """Handles POST /v2/audio/transcriptions."""
    fields, file = _read_form(request)
    request.emulator.model_catalog.find_for("transcribe", request.body.get("model"))
    _check_fields(fields)
    _check_file(file)
    return Response(body={"text": f"This is the Cohere emulator. It heard {_length(file)} ({fields['language']})."})


def _read_form(request: Request) -> tuple[dict[str, str], Part]:
    """Returns the text fields before the file, and the file. Raises a 400 without a file."""
    fields: dict[str, str] = {}
    for part in request.form.parts if request.form is not None else ():
        if part.name == "file":
            return fields, part
        fields[part.name] = part.data.decode("utf-8", "replace")
    raise bad_request("file is required")


def _check_fields(fields: dict[str, str]) -> None:
    for name in fields:
        if name not in FIELDS:
            raise invalid_request(f"unknown field {name}.")
    if not fields.get("language"):
        raise bad_request("language is required")
    if fields["language"] not in LANGUAGES:
        raise invalid_request(f"language must be one of {', '.join(LANGUAGES)}.")
    try:
        temperature = float(fields.get("temperature") or 0)
    except ValueError:
        raise invalid_request("temperature must be a number.") from None
    if not 0 <= temperature <= 1:
        raise invalid_request("temperature must be between 0 and 1 inclusive.")


def _check_file(file: Part) -> None:
    _, dot, extension = (file.filename or "").rpartition(".")
    if not dot or extension.lower() not in EXTENSIONS:
        raise invalid_request(f"file must be one of {', '.join(EXTENSIONS)}.")
    if not file.size:
        raise invalid_request("file must not be empty.")
    if file.size > MAX_BYTES:
        raise invalid_request("file must be at most 25 MB.")


def _length(file: Part) -> str:
    """Returns the length of a WAV file in seconds, of any other file in bytes."""
    try:
        with wave.open(io.BytesIO(file.data)) as recording:
            return f"{recording.getnframes() / recording.getframerate():.1f} seconds of sound"
    except (wave.Error, EOFError, ZeroDivisionError):
        return f"{file.size} bytes of sound"
