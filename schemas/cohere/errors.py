"""Cohere's error body. Source: docs/cohere-api.md#errors: every key may be missing."""

from msgspec import Struct
from msgspec.json import Decoder, Encoder


class ErrorBody(Struct, frozen=True, omit_defaults=True):
    message: str | None = None
    error_type: str | None = None
    id: str | None = None


class AliasErrorBody(Struct, frozen=True, omit_defaults=True):
    """An error of the gateway's own, with its `code`; on the alias for programs of another gateway, which look for
    OpenAI's `type` as well.
    """

    message: str | None = None
    type: str | None = None
    code: str | None = None


decode_error = Decoder(ErrorBody).decode
encode_error = Encoder().encode
