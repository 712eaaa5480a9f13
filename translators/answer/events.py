"""Answer events: the output of the turn machine, and the input of the two projections (chat, Responses).

An item is a text, a thought, a plan or a tool call. Items are numbered from 0 in order of appearance. Each is Opened
once and Closed once, and its Deltas joined are its Closed text.
"""

from enum import Enum

from msgspec import Struct

from schemas.cohere.chat import Citation, LogprobItem, Usage
from translators.core.errors import Failure


class Kind(Enum):
    """The kinds of items."""

    TEXT = "text"
    THINKING = "thinking"
    PLAN = "plan"
    CALL = "call"


# To ask an Enum's class for a member takes as long as the rest of the work on a delta: streams use these.
TEXT, THINKING, CALL = Kind.TEXT, Kind.THINKING, Kind.CALL


class Started(Struct, frozen=True):
    """The answer begins. id: Cohere's, empty if it gave none."""

    id: str


class Opened(Struct, frozen=True):
    """An item begins. call_id, name: of a tool call, empty for other items."""

    item: int
    kind: Kind
    call_id: str = ""
    name: str = ""


class Delta(Struct, frozen=True, gc=False):
    """A piece of the open item's text, or of a tool call's arguments."""

    item: int
    kind: Kind
    text: str
    logprobs: tuple[LogprobItem, ...] = ()


class Cited(Struct, frozen=True):
    """A citation of an item.

    start, end: offsets in code points into the item's text, checked against it; the end is exclusive.
    """

    item: int
    kind: Kind
    start: int
    end: int
    citation: Citation


class Closed(Struct, frozen=True):
    """An item ends. text: all of it. complete: False when the answer was cut short inside the item."""

    item: int
    kind: Kind
    text: str
    complete: bool = True


class Finished(Struct, frozen=True):
    """The answer ended properly. reason: Cohere's finish reason."""

    reason: str
    usage: Usage | None


class Failed(Struct, frozen=True):
    """The answer failed. Nothing follows."""

    failure: Failure
    usage: Usage | None = None


AnswerEvent = Started | Opened | Delta | Cited | Closed | Finished | Failed
