"""What is read of native requests and answers while they are passed on: the model's name, and what was counted.

Everything else in them is skipped unread. Sources: docs/cohere-api.md#chat-answers, docs/cohere-api.md#streaming,
docs/cohere-api.md#version-1 and docs/cohere-api.md#compatibility-api.
"""

from typing import Any

from msgspec import Raw, Struct
from msgspec.json import Decoder

from schemas.cohere.chat import Usage


class Asked(Struct, frozen=True):
    """Any request's body. Whatever the caller wrote there, it is Cohere's to judge."""

    model: Any = None
    stream: Any = None


class Inputs(Struct, frozen=True):
    """A request for vectors: what is to be embedded, uncounted and unread."""

    texts: list[Raw] | None = None
    images: list[Raw] | None = None
    inputs: list[Raw] | None = None


class Ending(Struct, frozen=True):
    """`delta` of v2's last event, or `response` in v1's."""

    finish_reason: str | None = None
    usage: Usage | None = None
    meta: Usage | None = None


class Counted(Struct, frozen=True):
    """Any answer, whole or the last event of a stream: v2 chat has `usage`, everything else `meta`."""

    finish_reason: str | None = None
    usage: Usage | None = None
    meta: Usage | None = None
    delta: Ending | None = None
    response: Ending | None = None


decode_asked = Decoder(Asked).decode
decode_inputs = Decoder(Inputs).decode
decode_counted = Decoder(Counted).decode
