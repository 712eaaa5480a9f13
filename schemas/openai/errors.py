"""OpenAI's error body, the shape of every failure on OpenAI's paths.

Source: OpenAI's specification, `Error` and `ErrorResponse` (all four keys are required, two may be null).
"""

from msgspec import Struct
from msgspec.json import Encoder


class Error(Struct, frozen=True):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(Struct, frozen=True):
    """`{"error": {...}}`: the body of an error response, or one event of a broken stream."""

    error: Error


encode_error = Encoder().encode
