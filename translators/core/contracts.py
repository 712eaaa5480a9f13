"""All that a translator may know of the outside, and the contract it offers to it.

`Context` goes in. A `Translation` comes out: the Cohere request to send, and the two ways to tell its answer; or a
`SplitRequest`: several requests with one answer.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Protocol

from msgspec import Struct

from translators.core.errors import Failure
from translators.core.notes import Notes


class UsageBase(Enum):
    """Which of Cohere's two counts `usage` shows (product.md, decision 5)."""

    TOKENS = "tokens"
    BILLED = "billed_units"


class Policy(Struct, frozen=True):
    """The operator's choices that translation obeys; the settings of the same names are documented there.

    instead: models that failed in this one request -> the models that answer in their place.
    """

    aliases: Mapping[str, str] = {}
    successors: bool = True
    usage_base: UsageBase = UsageBase.TOKENS
    extra_upstream_fields: frozenset[str] = frozenset()
    refuse_missed_schema: bool = False
    embed_input_type: str = "search_document"
    instead: Mapping[str, str] = {}
    transcription_language: str = ""
    raw_thoughts: bool = False


def _nothing(thought: str) -> str:
    return ""


def _nobodys(token: str) -> str | None:
    return None


def _no_words() -> Sequence[bytes]:
    return ()


class Context(Struct, frozen=True):
    """One request's surroundings.

    created: Unix seconds. unique: a random hex string, for ids that Cohere does not give.
    strict: the caller sent `x-gateway-strict: true`. features: what `/v1/models` says a model can do; lessons:
    what its refusals taught about it, by the name of the capability. seal, opened: a thought as an opaque token,
    and back (None for a token that was not made here); the same of a summary. now: Unix seconds when it is called, for
    what takes its time; `created` where there is no clock. history: what was said before, as JSON
    arrays of items. items: those that the request refers to, by id. vocabulary: the bytes of OpenAI's tokens by their
    ids.
    """

    created: int
    unique: str
    strict: bool = False
    policy: Policy = Policy()
    features: Mapping[str, frozenset[str]] = {}
    lessons: Mapping[str, Mapping[str, bool]] = {}
    history: Sequence[bytes] = ()
    items: Mapping[str, bytes] = {}
    response_id: str = ""
    seal: Callable[[str], str] = _nothing
    opened: Callable[[str], str | None] = _nobodys
    seal_summary: Callable[[str], str] = _nothing
    opened_summary: Callable[[str], str | None] = _nobodys
    vocabulary: Callable[[], Sequence[bytes]] = _no_words
    now: Callable[[], float] | None = None

    def ended(self) -> int:
        """When an answer was complete that is so now; clocks may be set back, answers do not end before they began."""
        return max(int(self.now()), self.created) if self.now is not None else self.created


class UsageTotals(Struct, frozen=True):
    """What an answer came to, for metrics and the ledger. `billed` is Cohere's own count.

    finish: of several choices one that did not just end, if there is one; empty where nothing is generated.
    """

    finish: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    billed: Mapping[str, int | float] = {}

    @property
    def lasting(self) -> bool:
        """It may be told again later: nothing of it was cut off, and nobody is told again to call a tool."""
        return self.finish in ("", "stop")


class TranslatedResponse(Struct, frozen=True):
    """A whole answer, encoded for the caller."""

    body: bytes
    outcome: UsageTotals


class Reference(Struct, frozen=True):
    """An item that a request names instead of showing it, and where it would be found.

    place: among the request's items. answer_id: of the response whose output it is in. response_id: of the one whose
    request had it. Both are empty for an id that was not made here.
    """

    place: int
    id: str
    answer_id: str = ""
    response_id: str = ""


class Prepared(Struct, frozen=True):
    """A response that was asked for without an answer: its events, and it as a whole."""

    documents: Sequence[bytes]
    final: bytes
    notes: Notes


class StateOptions(Struct, frozen=True):
    """What a request asks of the memory. items: the request's own, by id, as they are kept."""

    store: bool = True
    previous_response_id: str = ""
    conversation: str = ""
    background: bool = False
    items: tuple[tuple[str, bytes], ...] = ()
    references: tuple[Reference, ...] = ()


class FinishedResponse(Struct, frozen=True):
    """A finished response as the memory keeps it. output: a JSON array; items: its elements.

    answer_id: what their ids have in common, empty without any.
    """

    id: str
    status: str
    model: str
    created_at: int
    output: bytes
    items: Sequence[bytes]
    answer_id: str = ""


class QueuedResponse(Struct, frozen=True):
    """What is told of an answer in the background before it begins. waiting, begun: the answer as it stands while
    nobody works on it, and then. events: the first ones of its stream, numbered from 0.
    """

    waiting: bytes
    begun: bytes
    events: Sequence[bytes]


class Stream(Protocol):
    """A streamed answer being told. What its methods return is to be sent in order: JSON documents.

    `choice` counts the parallel calls to Cohere that one request may make. feed raises UpstreamProtocolError
    alone, upon which the caller says `end` with that failure. end is idempotent: after a normal finish it
    returns nothing. whole tells a whole answer of Cohere's as the stream it might have been.
    """

    outcome: UsageTotals
    finished: bool
    failure: Failure | None

    def feed(self, data: bytes, choice: int = 0) -> Sequence[bytes]: ...

    def end(self, failure: Failure, choice: int = 0) -> Sequence[bytes]: ...

    def whole(self, body: bytes, choice: int = 0) -> Sequence[bytes]: ...

    def done(self, choice: int) -> bool: ...

    def final(self) -> bytes:
        """The whole answer as one document, once finished; empty where the operation has no such thing."""
        ...


class Translation(Protocol):
    """A translated request.

    bodies       what Cohere is sent, as JSON: one body for each parallel call (`n` in chat)
    model        Cohere's id of the model
    streamed     the caller wants a stream
    buffered     Cohere's answer must be seen whole before any of it is shown, also to a caller who streams
    repeatable   the likeliest answer is asked for (temperature 0): the same request may get the same answer
    notes        what was not taken as asked
    again        the call to make after an answer that Cohere may do better (`Failure.again`); None for none
    shorter      the call to make when Cohere finds this one too long; None where nothing may be left out
    answer       Cohere's whole answers, one for each body, as the caller's
    stream       the machine that tells Cohere's events as the caller's
    """

    @property
    def bodies(self) -> Sequence[bytes]: ...

    @property
    def model(self) -> str: ...

    @property
    def streamed(self) -> bool: ...

    @property
    def repeatable(self) -> bool: ...

    @property
    def buffered(self) -> bool: ...

    @property
    def notes(self) -> Notes: ...

    def again(self) -> "Translation | None": ...

    def shorter(self) -> "Translation | None": ...

    def answer(self, bodies: Sequence[bytes]) -> TranslatedResponse: ...

    def stream(self) -> Stream: ...


class SplitRequest(Protocol):
    """A translated request whose parts are asked apart, a few at once, and answered together and whole.

    weights: what each body takes of a budget that counts inputs. told: a part's failure as the caller of the whole
    request sees it. otherwise: the call to make after a
    failure, None where another one would not help. What the cache keeps are pieces, each as if it had been asked for
    alone: `alone` says how that would have been asked, `beside` is the call for what is not kept, `pieces` what its
    answers add, by place.
    """

    @property
    def bodies(self) -> Sequence[bytes]: ...

    @property
    def model(self) -> str: ...

    @property
    def weights(self) -> Sequence[int]: ...

    @property
    def notes(self) -> Notes: ...

    def told(self, failed: Failure) -> Failure: ...

    def otherwise(self, failed: Failure) -> "SplitRequest | None": ...

    def alone(self) -> Sequence[bytes]: ...

    def beside(self, kept: Sequence[bytes | None]) -> "SplitRequest": ...

    def pieces(self, bodies: Sequence[bytes]) -> Sequence[tuple[int, bytes]]: ...

    def answer(self, bodies: Sequence[bytes]) -> TranslatedResponse: ...
