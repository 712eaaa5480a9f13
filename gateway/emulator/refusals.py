"""The one exception of the emulator: a request that gets an error body instead of an answer.

The sentences are Cohere's own (docs/cohere-api.md#errors); who raises which is decided next to each rule.
"""

from __future__ import annotations

DOCUMENTATION = "For proper usage, please refer to https://docs.cohere.com/v2/reference/"


class Refusal(Exception):
    """An HTTP error. `message` None means a body that is not Cohere's (`raw`, an HTML page or nothing)."""

    def __init__(
        self,
        status: int,
        message: str | None,
        *,
        error_type: str | None = None,
        raw: bytes = b"",
        content_type: str = "application/json",
    ) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.error_type = error_type
        self.raw = raw
        self.content_type = content_type


def invalid(reason: str) -> Refusal:
    """400 with the prefix that most of Cohere's validation sentences have."""
    return Refusal(400, f"invalid request: {reason}")


def bare(reason: str) -> Refusal:
    """400 with one of the sentences that stand without a prefix."""
    return Refusal(400, reason)


def overlong(reason: str) -> Refusal:
    """400 of the second family: too many tokens."""
    return Refusal(400, f"too many tokens: {reason}")


def unknown_field(name: str, page: str) -> Refusal:
    """422 for a field that the endpoint does not know; seen at top level, in messages and in tools."""
    return Refusal(422, f"unknown field: parameter '{name}' is not a valid field. {DOCUMENTATION}{page}")


def wrong_type(name: str, value: object, wanted: str, page: str) -> Refusal:
    """400 for a value of another JSON type; `wanted` is a Go type, because that is what the server names."""
    return Refusal(
        400,
        f"invalid type: parameter '{name}' is of type {json_type(value)} but should be of type {wanted}."
        f" {DOCUMENTATION}{page}",
    )


def json_type(value: object) -> str:
    """The JSON name of a decoded value's type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"
