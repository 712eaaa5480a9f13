"""Answer events: what the turn machine produces and the two projections (chat chunks, Responses events) read.

An item is one piece of the answer in order of appearance: a text, a thought, a plan or a tool call. Items are numbered
from 0. Every item is Opened once and Closed once; its Deltas joined are its Closed text.
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


class Started(Struct, frozen=True):
    """The answer begins. `id` is Cohere's, empty if it gave none."""

    id: str


class Opened(Struct, frozen=True):
    """An item begins. `call_id` and `name` are set for a tool call."""

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
    """A citation of `item`. The offsets were checked against that item's text; `end` is exclusive."""

    item: int
    kind: Kind
    start: int
    end: int
    citation: Citation


class Closed(Struct, frozen=True):
    """An item ends, with all of its text. `complete` is False when the stream broke inside the item."""

    item: int
    kind: Kind
    text: str
    complete: bool = True


class Finished(Struct, frozen=True):
    """The answer ended properly. `reason` is Cohere's own word."""

    reason: str
    usage: Usage | None


class Failed(Struct, frozen=True):
    """The answer failed. Nothing follows."""

    failure: Failure
    usage: Usage | None = None


AnswerEvent = Started | Opened | Delta | Cited | Closed | Finished | Failed
