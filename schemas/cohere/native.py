"""The fields that are read of native requests and answers while they pass through: the model, the size, the usage.

The decoder skips everything else. Sources: docs/cohere-api.md#chat-answers, docs/cohere-api.md#streaming,
docs/cohere-api.md#version-1 and docs/cohere-api.md#compatibility-api.
"""

from typing import Any, TypeAlias

from msgspec import Raw, Struct
from msgspec.json import Decoder

from schemas.cohere.chat import Usage


# Decoded for every native call, so nothing is in it but what is looked for each time.
class NativeRequest(Struct, frozen=True):
    """The body of any request. The fields may be of any type, because Cohere validates them, not the gateway."""

    model: Any = None
    stream: Any = None


Counted: TypeAlias = list[Raw] | dict[str, Raw] | str | float | bool | None
"""The value of a field that tells how much work a request is: a list whose values are counted, not read, or anything
else."""


class Ending(Struct, frozen=True):
    """`delta` of the last event of version 2, or `response` of that of version 1."""

    finish_reason: str | None = None
    usage: Usage | None = None
    meta: Usage | None = None


class NativeAnswer(Struct, frozen=True):
    """Any answer, whole or the last event of a stream. Chat of version 2 has `usage`, everything else `meta`."""

    finish_reason: str | None = None
    usage: Usage | None = None
    meta: Usage | None = None
    delta: Ending | None = None
    response: Ending | None = None


decode_request = Decoder(NativeRequest).decode
decode_fields = Decoder(dict[str, Raw]).decode
decode_counted = Decoder(Counted).decode
decode_answer = Decoder(NativeAnswer).decode
