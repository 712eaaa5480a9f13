"""Cohere's error body. Source: docs/cohere-api.md#errors: every key may be missing."""

from msgspec import Struct
from msgspec.json import Decoder, Encoder


class ErrorBody(Struct, frozen=True, omit_defaults=True):
    message: str | None = None
    error_type: str | None = None
    id: str | None = None


decode_error = Decoder(ErrorBody).decode
encode_error = Encoder().encode
