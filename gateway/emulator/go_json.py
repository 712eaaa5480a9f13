"""JSON as Cohere's Go servers write and read it."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.emulator.errors import bad_request

# Go's encoder escapes these inside strings. None of them occurs outside a string in compact JSON.
ESCAPES = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)

ENCODER = msgspec.json.Encoder()
DECODER = msgspec.json.Decoder()


def encode(value: Any) -> bytes:
    """Returns compact JSON, keys in order, `<`, `>` and `&` escaped, other characters as UTF-8."""
    data = ENCODER.encode(value)
    for character, escape in ESCAPES:
        if character in data:
            data = data.replace(character, escape)
    return data


def decode(data: bytes) -> Any:
    """Returns the decoded body. Raises a 400 that gives the reason when it is no JSON."""
    try:
        return DECODER.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        raise bad_request(f"invalid json syntax: {reason}") from None
