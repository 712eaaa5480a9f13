"""The error that an endpoint raises, and constructors for Cohere's families of validation errors.

The sentences are Cohere's own where one was recorded (docs/cohere-api.md#errors); "guessed" marks the others. Each rule
raises its error itself; `http_exchange.py` sends it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

REFERENCE = "For proper usage, please refer to https://docs.cohere.com/v2/reference/"


class APIError(Exception):
    """An HTTP error response. Without a message the body is `raw`, which need not be Cohere's format at all."""

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


def invalid_request(reason: str) -> APIError:
    """Returns a 400 with the prefix that most of Cohere's validation errors have."""
    return APIError(400, f"invalid request: {reason}")


def bad_request(reason: str) -> APIError:
    """Returns a 400 without a prefix."""
    return APIError(400, reason)


def too_many_tokens(reason: str) -> APIError:
    """Returns a 400 for a prompt or an output limit that is too long."""
    return APIError(400, f"too many tokens: {reason}")


def unknown_field(name: str, page: str) -> APIError:
    """Returns the 422 for a field that the endpoint does not have. `page` is the page of Cohere's reference."""
    return APIError(422, f"unknown field: parameter '{name}' is not a valid field. {REFERENCE}{page}")


def wrong_type(name: str, value: object, expected: str, page: str) -> APIError:
    """Returns the 400 for a value of another type. `expected` is a Go type, as in Cohere's own messages."""
    return APIError(
        400,
        f"invalid type: parameter '{name}' is of type {json_type(value)} but should be of type {expected}."
        f" {REFERENCE}{page}",
    )


def reject_unknown_fields(value: Mapping[str, Any], allowed: Collection[str], page: str = "chat") -> None:
    """Raises `unknown_field` for the first field that is not allowed."""
    for name in value:
        if name not in allowed:
            raise unknown_field(name, page)


def require_object(name: str, value: object, page: str = "chat", expected: str = "Object") -> dict[str, Any]:
    """Returns the value, or raises `wrong_type` if it is no JSON object."""
    if not isinstance(value, dict):
        raise wrong_type(name, value, expected, page)
    return value


def json_type(value: object) -> str:
    """Returns the name that Go's decoder gives to the type of a decoded JSON value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"
