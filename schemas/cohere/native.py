"""What is read of native requests and answers while they pass through: the model's name, and the usage.

Everything else in them is skipped unread. Sources: docs/cohere-api.md#chat-answers, docs/cohere-api.md#streaming,
docs/cohere-api.md#version-1 and docs/cohere-api.md#compatibility-api.
"""

from typing import Any

from msgspec import Raw, Struct
from msgspec.json import Decoder

from schemas.cohere.chat import Usage


class NativeRequest(Struct, frozen=True):
    """The body of any request. What the caller wrote there is Cohere's to validate."""

    model: Any = None
    stream: Any = None


class Inputs(Struct, frozen=True):
    """What of a request says how much work it is: inputs to embed and documents to rank are not read, only counted."""

    texts: list[Raw] | None = None
    images: list[Raw] | None = None
    inputs: list[Raw] | None = None
    documents: list[Raw] | None = None
    max_tokens: Any = None


class Ending(Struct, frozen=True):
    """`delta` of v2's last event, or `response` in v1's."""

    finish_reason: str | None = None
    usage: Usage | None = None
    meta: Usage | None = None


class NativeAnswer(Struct, frozen=True):
    """Any answer, whole or the last event of a stream: v2 chat has `usage`, everything else `meta`."""

    finish_reason: str | None = None
    usage: Usage | None = None
    meta: Usage | None = None
    delta: Ending | None = None
    response: Ending | None = None


decode_request = Decoder(NativeRequest).decode
decode_inputs = Decoder(Inputs).decode
decode_answer = Decoder(NativeAnswer).decode
