"""Cohere's error body, in which every key may be missing (docs/cohere-api.md#errors)."""

from msgspec import Struct
from msgspec.json import Decoder, Encoder


class ErrorBody(Struct, frozen=True, omit_defaults=True):
    message: str | None = None
    # Of a 422 alone, where the generation was unusable (docs/cohere-api.md#errors).
    error_type: str | None = None
    id: str | None = None


class AliasErrorBody(Struct, frozen=True, omit_defaults=True):
    """An error of the gateway's own on a native path. type, code: OpenAI's; `type` on LiteLLM's paths only."""

    message: str | None = None
    type: str | None = None
    code: str | None = None


decode_error = Decoder(ErrorBody).decode
encode_error = Encoder().encode
