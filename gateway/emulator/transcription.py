"""/v2/audio/transcriptions: nothing is heard; what is said is how long the recording is.

The form is read in its order: what comes after the file is not seen, as Cohere's compatibility API wants the file
last. The sentences of its refusals are guessed. Source: docs/cohere-api.md#transcription.
"""

from __future__ import annotations

import io
import wave

from gateway.emulator.multipart import Part
from gateway.emulator.refusals import bare, invalid
from gateway.emulator.request import Reply, Request

EXTENSIONS = ("flac", "mp3", "mpeg", "mpga", "ogg", "wav")
LARGEST = 25 * 1024 * 1024
LANGUAGES = ("ar", "de", "el", "en", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "vi", "zh")
FIELDS = ("model", "language", "temperature")


def answer(request: Request) -> Reply:
    """POST /v2/audio/transcriptions."""
    texts, file = _read(request)
    request.emulator.catalogue.serving(request.body.get("model"), "transcribe")
    _check(texts)
    _check_file(file)
    said = f"This is the Cohere emulator. It heard {_length(file)} ({texts['language']})."
    return Reply(body={"text": said})


def _read(request: Request) -> tuple[dict[str, str], Part]:
    texts: dict[str, str] = {}
    for part in request.form.parts if request.form is not None else ():
        if part.name == "file":
            return texts, part
        texts[part.name] = part.data.decode("utf-8", "replace")
    raise bare("file is required")


def _check(texts: dict[str, str]) -> None:
    for name in texts:
        if name not in FIELDS:
            raise invalid(f"unknown field {name}.")
    if not texts.get("language"):
        raise bare("language is required")
    if texts["language"] not in LANGUAGES:
        raise invalid(f"language must be one of {', '.join(LANGUAGES)}.")
    try:
        warm = float(texts.get("temperature") or 0)
    except ValueError:
        raise invalid("temperature must be a number.") from None
    if not 0 <= warm <= 1:
        raise invalid("temperature must be between 0 and 1 inclusive.")


def _check_file(file: Part) -> None:
    if (file.filename or "").rpartition(".")[2].lower() not in EXTENSIONS:
        raise invalid(f"file must be one of {', '.join(EXTENSIONS)}.")
    if not file.size:
        raise invalid("file must not be empty.")
    if file.size > LARGEST:
        raise invalid("file must be at most 25 MB.")


def _length(file: Part) -> str:
    try:
        with wave.open(io.BytesIO(file.data)) as recording:
            return f"{recording.getnframes() / recording.getframerate():.1f} seconds of sound"
    except (wave.Error, EOFError, ZeroDivisionError):
        return f"{file.size} bytes of sound"
