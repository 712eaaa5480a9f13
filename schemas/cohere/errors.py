"""Cohere's error body. Source: cohere_api.md §2.1: every key may be missing."""

from msgspec import Struct
from msgspec.json import Decoder


class ErrorBody(Struct, frozen=True):
    message: str | None = None
    error_type: str | None = None
    id: str | None = None


decode_error = Decoder(ErrorBody).decode
