"""The events of a `/v2/chat` stream.

There are eleven kinds, distinguished by `type` (docs/cohere-api.md#streaming). A tagged union refuses an unknown tag,
but Cohere may add kinds: `decode_event` returns Unknown for them, and the stream goes on.

In deltas `content`, `tool_calls` and `citations` are single objects; only message-start has (empty) arrays, which are
not read. No event can refer to itself, so the garbage collector need not track them (`gc=False`), which saves work for
each token of a stream.
"""

from msgspec import DecodeError, Struct, ValidationError
from msgspec.json import Decoder

from schemas.cohere.chat import AnsweredFunction, Citation, LogprobItem, Usage


# The only event with the stream's id (docs/cohere-api.md#streaming).
class MessageStart(Struct, frozen=True, gc=False, tag_field="type", tag="message-start"):
    id: str | None = None


class Content(Struct, frozen=True, gc=False):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None


class ContentMessage(Struct, frozen=True, gc=False):
    content: Content | None = None


class ContentBody(Struct, frozen=True, gc=False):
    message: ContentMessage | None = None


# `index` counts content blocks here, calls and citations below: three counters, each from 0
# (docs/cohere-api.md#order-of-events).
class ContentStart(Struct, frozen=True, gc=False, tag_field="type", tag="content-start"):
    index: int | None = None
    delta: ContentBody | None = None


class ContentDelta(Struct, frozen=True, gc=False, tag_field="type", tag="content-delta"):
    index: int | None = None
    delta: ContentBody | None = None
    logprobs: LogprobItem | None = None


class ContentEnd(Struct, frozen=True, gc=False, tag_field="type", tag="content-end"):
    index: int | None = None


# A plan has deltas alone: no event begins or ends it.
class PlanMessage(Struct, frozen=True, gc=False):
    tool_plan: str | None = None


class PlanBody(Struct, frozen=True, gc=False):
    message: PlanMessage | None = None


class PlanDelta(Struct, frozen=True, gc=False, tag_field="type", tag="tool-plan-delta"):
    delta: PlanBody | None = None


class CallDetails(Struct, frozen=True, gc=False):
    id: str | None = None
    function: AnsweredFunction | None = None


# A list is taken as well, as whole answers have it.
class CallMessage(Struct, frozen=True, gc=False):
    tool_calls: CallDetails | list[CallDetails] | None = None


class CallBody(Struct, frozen=True, gc=False):
    message: CallMessage | None = None


class CallStart(Struct, frozen=True, gc=False, tag_field="type", tag="tool-call-start"):
    index: int | None = None
    delta: CallBody | None = None


class CallDelta(Struct, frozen=True, gc=False, tag_field="type", tag="tool-call-delta"):
    index: int | None = None
    delta: CallBody | None = None


class CallEnd(Struct, frozen=True, gc=False, tag_field="type", tag="tool-call-end"):
    index: int | None = None


class CitationMessage(Struct, frozen=True, gc=False):
    citations: Citation | list[Citation] | None = None


class CitationBody(Struct, frozen=True, gc=False):
    message: CitationMessage | None = None


class CitationStart(Struct, frozen=True, gc=False, tag_field="type", tag="citation-start"):
    index: int | None = None
    delta: CitationBody | None = None


class CitationEnd(Struct, frozen=True, gc=False, tag_field="type", tag="citation-end"):
    index: int | None = None


class Ending(Struct, frozen=True, gc=False):
    finish_reason: str | None = None
    usage: Usage | None = None
    # Beside the reason ERROR (docs/cohere-api.md#errors-inside-a-stream).
    error: str | None = None
    error_type: str | None = None


class MessageEnd(Struct, frozen=True, gc=False, tag_field="type", tag="message-end"):
    delta: Ending | None = None


class Unknown(Struct, frozen=True, gc=False):
    """An event of another kind (`debug`, or a new one), which is skipped."""

    type: str


# Written out, because type checkers read no union that is made of a tuple.
Event = (
    MessageStart
    | ContentStart
    | ContentDelta
    | ContentEnd
    | PlanDelta
    | CallStart
    | CallDelta
    | CallEnd
    | CitationStart
    | CitationEnd
    | MessageEnd
)

KINDS: tuple[type[Struct], ...] = (
    MessageStart,
    ContentStart,
    ContentDelta,
    ContentEnd,
    PlanDelta,
    CallStart,
    CallDelta,
    CallEnd,
    CitationStart,
    CitationEnd,
    MessageEnd,
)
TAGS = frozenset(str(kind.__struct_config__.tag) for kind in KINDS)


# For an event that no Struct fits: its kind may be unknown, or a field of it wrong.
class _Tagged(Struct):
    type: str


_decode_known = Decoder(Event).decode
_decode_tag = Decoder(_Tagged).decode


def decode_event(data: bytes) -> Event | Unknown:
    """Decodes one event's JSON. Raises msgspec.DecodeError or UnicodeDecodeError if it is malformed."""
    try:
        return _decode_known(data)  # type: ignore[no-any-return]
    except ValidationError:
        # A known kind with a wrong field is an error; only an unknown kind is skipped.
        tag = _decode_tag(data).type
        if tag in TAGS:
            raise
        return Unknown(tag)


MESSAGE_END = b'"message-end"'
"""Is in every event that ends an answer, and hardly in another."""


def is_message_end(data: bytes) -> bool:
    """Tells whether an event is the one that ends an answer. What cannot be decoded is not.

    The bytes are looked at first, as this is asked of each event. They alone do not tell: a tool may have this name.
    """
    if MESSAGE_END not in data:
        return False
    try:
        return _decode_tag(data).type == MessageEnd.__struct_config__.tag
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return False
