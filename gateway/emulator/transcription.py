"""Answers of /v2/audio/transcriptions: nothing is heard; what is said is the length of what came.

Source: Cohere API notes §11. The form is read in its order: what comes after the file is not seen, as Cohere's
compatibility API wants the file last.
"""

from __future__ import annotations

import io
import wave
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from gateway.emulator.refusals import bare, invalid

EXTENSIONS = ("flac", "mp3", "mpeg", "mpga", "ogg", "wav")
LARGEST = 25 * 1024 * 1024
LANGUAGES = frozenset("en de fr it es pt el nl pl vi zh ar ja ko".split())
LONGEST_TEXT = 1024 * 1024


async def form(headers: Mapping[str, str], data: bytes) -> dict[str, Any]:
    """The form as an object; the file is `{name, data}`. Raises Refusal (400) for what is none."""

    async def once() -> AsyncIterator[bytes]:
        yield data

    try:
        parser = MultiPartParser(Headers(dict(headers)), once(), max_part_size=LONGEST_TEXT)  # type: ignore[arg-type]
        parsed = await parser.parse()
    except (MultiPartException, KeyError, AssertionError):
        raise bare("the body is not multipart/form-data") from None  # guessed
    read: dict[str, Any] = {}
    try:
        for name, value in parsed.multi_items():
            if isinstance(value, UploadFile):
                read[name] = {"name": value.filename or "", "data": await value.read()}
                break
            read[name] = value
    finally:
        await parsed.close()
    return read


def check(body: Mapping[str, Any]) -> None:
    """All rules of the form, its model apart. The sentences are guessed."""
    if not body.get("language"):
        raise bare("language is required")
    if body["language"] not in LANGUAGES:
        raise invalid(f"language must be one of {', '.join(sorted(LANGUAGES))}.")
    file = body.get("file")
    if not isinstance(file, dict):
        raise bare("file is required")
    if file["name"].rpartition(".")[2].lower() not in EXTENSIONS:
        raise invalid(f"file must be one of {', '.join(EXTENSIONS)}.")
    if len(file["data"]) > LARGEST:
        raise invalid("file must be at most 25 MB.")
    if not file["data"]:
        raise invalid("file must not be empty.")
    for name in body:
        if name not in ("model", "language", "temperature", "file"):
            raise invalid(f"unknown field {name}.")
    try:
        warm = float(body.get("temperature") or 0)
    except ValueError:
        raise invalid("temperature must be a number.") from None
    if not 0 <= warm <= 1:
        raise invalid("temperature must be between 0 and 1 inclusive.")


def answer(body: Mapping[str, Any]) -> dict[str, Any]:
    """The whole answer to a checked form."""
    file = body["file"]
    return {"text": f"This is the Cohere emulator. It heard {_length(file['data'])} ({body['language']})."}


def _length(data: bytes) -> str:
    try:
        with wave.open(io.BytesIO(data)) as recording:
            return f"{recording.getnframes() / recording.getframerate():.1f} seconds of sound"
    except (wave.Error, EOFError, ZeroDivisionError):
        return f"{len(data)} bytes of sound"
