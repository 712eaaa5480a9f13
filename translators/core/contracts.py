"""What a translation may read of its surroundings, and the contracts it offers in return.

A `Context` goes in. A `Translation` comes out: the requests to send to Cohere, and two ways to translate the answer,
whole or streamed. An operation whose inputs are sent in several parts yields a `SplitRequest` instead.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Literal, Protocol

from msgspec import Struct

from translators.core.errors import Failure
from translators.core.notes import Notes


class UsageBase(Enum):
    """Which of Cohere's two counts `usage` shows: the tokens it processed, or the units it bills."""

    TOKENS = "tokens"
    BILLED = "billed_units"


class Policy(Struct, frozen=True):
    """The operator's choices that translation obeys; the settings of the same names are documented there.

    model_overrides: models that failed in this one request -> the models that replace them. minimum_safety_mode: the
    weakest that this caller's chats may have; empty for none.
    """

    aliases: Mapping[str, str] = {}
    successors: bool = True
    usage_base: UsageBase = UsageBase.TOKENS
    extra_upstream_fields: frozenset[str] = frozenset()
    refuse_missed_schema: bool = False
    embed_input_type: str = "search_document"
    model_overrides: Mapping[str, str] = {}
    transcription_language: str = ""
    raw_thoughts: bool = False
    parse_model: str = "parse-v5.0"
    minimum_safety_mode: Literal["", "CONTEXTUAL", "STRICT"] = ""


class ResponseIdentity(Struct, frozen=True):
    """The ids and the times of one response.

    created: Unix seconds. unique: a random hex string, for ids that Cohere does not give. response_id: `resp_...` where
    the gateway has chosen one already. now: the current Unix time, for responses that take a while; None without a
    clock.
    """

    created: int
    unique: str
    response_id: str = ""
    now: Callable[[], float] | None = None

    def completed_at(self) -> int:
        """Returns the time of completion for a response that is complete now.

        It is never before `created`: clocks may be set back. Without a clock it is `created`.
        """
        return max(int(self.now()), self.created) if self.now is not None else self.created


class LearnedCapabilities(Struct, frozen=True):
    """What is known of models beyond the table in `capabilities.py`.

    features: by model, what `/v1/models` reports. corrections: by model, what Cohere's errors revealed; the keys are
    fields of `Capabilities`.
    """

    features: Mapping[str, frozenset[str]] = {}
    corrections: Mapping[str, Mapping[str, bool]] = {}


def _no_token(text: str) -> str:
    return ""


def _no_text(token: str) -> str | None:
    return None


class ConversationContext(Struct, frozen=True):
    """What precedes the request, and the keys to what it carries.

    history: earlier turns, as JSON arrays of items. items: those that the request refers to, by id.
    encrypt_reasoning, decrypt_reasoning: a thought as an opaque token, and back (None for a token that was not made
    here); encrypt_summary, decrypt_summary: the same for the summary in a compaction. file_texts: of the files
    that Cohere has parsed, by their URIs.
    """

    history: Sequence[bytes] = ()
    items: Mapping[str, bytes] = {}
    encrypt_reasoning: Callable[[str], str] = _no_token
    decrypt_reasoning: Callable[[str], str | None] = _no_text
    encrypt_summary: Callable[[str], str] = _no_token
    decrypt_summary: Callable[[str], str | None] = _no_text
    file_texts: Mapping[str, str] = {}


def _no_vocabulary() -> Sequence[bytes]:
    return ()


def _no_cost() -> int | None:
    return None


class Context(Struct, frozen=True):
    """One request's surroundings.

    strict: the caller sent `x-gateway-strict: true`. vocabulary: the bytes of cl100k_base's tokens by their ids. cost:
    nano-dollars of all that Cohere has billed for the request so far, None where that is unknown or not to be shown.
    """

    identity: ResponseIdentity
    policy: Policy = Policy()
    learned: LearnedCapabilities = LearnedCapabilities()
    conversation: ConversationContext = ConversationContext()
    strict: bool = False
    vocabulary: Callable[[], Sequence[bytes]] = _no_vocabulary
    cost: Callable[[], int | None] = _no_cost


class Workload(Struct, frozen=True):
    """An estimate of what a request asks of Cohere, cheap enough to make for each: for limits and budgets.

    model: Cohere's id. prompt_bytes: of the texts sent, over all parallel calls, without images and recordings.
    max_tokens: the most that may be generated over all parallel calls, None where the caller set no bound.
    end_user: the caller's `user` or `safety_identifier`, empty without one. calls: to Cohere, all parts together.
    images: of all calls. searches: queries times hundreds of documents, begun ones included, as rerank is billed.
    requested_model: as the caller wrote it. metadata: the caller's field of this name as JSON, empty without one.
    inputs: of a native body for embed or classify, by which Cohere counts it; 1 for anything else.
    """

    model: str
    prompt_bytes: int = 0
    max_tokens: int | None = None
    end_user: str = ""
    calls: int = 1
    images: int = 0
    searches: int = 1
    requested_model: str = ""
    metadata: bytes = b""
    inputs: int = 1


class UsageTotals(Struct, frozen=True):
    """What a response consumed, for metrics and the ledger.

    finish_reason: of several choices one that did not simply stop, if there is one; empty where nothing is generated.
    billed: Cohere's own count, by unit. cached_tokens: of the prompt, reasoning_tokens: of the completion.
    """

    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    billed: Mapping[str, int | float] = {}
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def cacheable(self) -> bool:
        """The response may be repeated later: nothing was cut off, and no tool would be called twice."""
        return self.finish_reason in ("", "stop")


class TranslatedResponse(Struct, frozen=True):
    """A whole response, encoded for the caller."""

    body: bytes
    usage: UsageTotals


class Reference(Struct, frozen=True):
    """An item that a request names instead of including it, and where it would be stored.

    index: among the request's items. answer_id: of the response whose output holds it. response_id: of the one whose
    request had it. Both are empty for an id that was not made here.
    """

    index: int
    id: str
    answer_id: str = ""
    response_id: str = ""


class PreparedResponse(Struct, frozen=True):
    """A response made without a call to Cohere: its events, and the whole document."""

    events: Sequence[bytes]
    final: bytes
    notes: Notes


class StateOptions(Struct, frozen=True):
    """What a request asks of stored conversations. items: the request's own, by id, as they are stored."""

    store: bool = True
    previous_response_id: str = ""
    conversation: str = ""
    background: bool = False
    items: tuple[tuple[str, bytes], ...] = ()
    references: tuple[Reference, ...] = ()


class FinishedResponse(Struct, frozen=True):
    """A finished response as it is stored. output: a JSON array; items: its elements.

    answer_id: what their ids have in common, empty where they share nothing.
    """

    id: str
    status: str
    model: str
    created_at: int
    output: bytes
    items: Sequence[bytes]
    answer_id: str = ""


class QueuedResponse(Struct, frozen=True):
    """A background response before it begins.

    queued, in_progress: the document before and after work on it has begun. events: the first of its stream, numbered
    from 0.
    """

    queued: bytes
    in_progress: bytes
    events: Sequence[bytes]


class Stream(Protocol):
    """The translation of a streamed response. Its methods return JSON documents, to be sent in order.

    choice: the index of one of the parallel calls to Cohere. `feed` raises nothing but UpstreamProtocolError, upon
    which `end` has to be called with its failure. `end` is idempotent: after a normal finish it returns nothing.
    `whole` translates a whole answer of Cohere's as if it had been streamed.
    """

    usage: UsageTotals
    finished: bool
    failure: Failure | None

    def feed(self, data: bytes, choice: int = 0) -> Sequence[bytes]: ...

    def end(self, failure: Failure, choice: int = 0) -> Sequence[bytes]: ...

    def fail(self, failure: Failure) -> Sequence[bytes]:
        """Returns the documents of a response that fails before anything of it came from Cohere."""
        ...

    def whole(self, body: bytes, choice: int = 0) -> Sequence[bytes]: ...

    def done(self, choice: int) -> bool: ...

    def final(self) -> bytes:
        """Returns the whole response as one document, once finished; empty where the operation has no such thing."""
        ...


class UpstreamRequest(Protocol):
    """The requests to Cohere for one request of the caller's.

    bodies: JSON, one for each parallel call. model: Cohere's id. notes: what was not done as requested.
    """

    @property
    def bodies(self) -> Sequence[bytes]: ...

    @property
    def model(self) -> str: ...

    @property
    def notes(self) -> Notes: ...

    @property
    def workload(self) -> Workload: ...


class Streamable(Protocol):
    """A translation whose response can be streamed.

    streamed: the caller requested a stream. buffered: Cohere's answer is read whole before any of it is shown, even in
    a stream. validated: the answer is checked at its end, which may take long. stream: makes the translation of
    Cohere's events.
    """

    @property
    def streamed(self) -> bool: ...

    @property
    def buffered(self) -> bool: ...

    @property
    def validated(self) -> bool: ...

    def stream(self) -> Stream: ...


class Retryable(Protocol):
    """A translation that may have alternatives.

    second_attempt: returns the call to make after a `Failure.second_attempt`, None if there is none. shortened: returns
    the call to make when Cohere finds this one too long, None where nothing may be left out. repeatable: the
    temperature is 0, so that a cached answer may serve.
    """

    @property
    def repeatable(self) -> bool: ...

    def second_attempt(self) -> "Translation | None": ...

    def shortened(self) -> "Translation | None": ...


class Preliminary(UpstreamRequest, Protocol):
    """A call to Cohere without which a translation cannot be complete."""

    def continue_with(self, bodies: Sequence[bytes]) -> "Translation":
        """Returns the complete translation, made of Cohere's whole answers."""
        ...


class Translation(UpstreamRequest, Streamable, Retryable, Protocol):
    """A translated request with one response.

    unparsed_files: data URIs and URLs of files that Cohere parses (`/v2/parse`). If there are any, the translation is
    incomplete: it is made again with their texts in `ConversationContext.file_texts`. preliminary: the call that comes
    first, None for none. A translation without bodies is answered without Cohere.
    """

    @property
    def unparsed_files(self) -> Sequence[str]: ...

    @property
    def preliminary(self) -> "Preliminary | None": ...

    def translate_response(self, bodies: Sequence[bytes]) -> TranslatedResponse:
        """Translates Cohere's whole answers, one for each body. Raises UpstreamProtocolError, AnswerFailed."""
        ...


class SplitRequest(UpstreamRequest, Protocol):
    """A translated request whose parts are sent apart, a few at once, and whose response is whole.

    The cache holds one entry an input, each as if it had been the only one.
    """

    @property
    def weights(self) -> Sequence[int]:
        """What each body takes of a budget that counts inputs."""
        ...

    def caller_failure(self, failure: Failure) -> Failure:
        """Restates a part's failure in the words of the whole request."""
        ...

    def second_attempt(self, failure: Failure) -> "SplitRequest | None":
        """Returns the request to make after this failure, None where another one would not help."""
        ...

    def input_bodies(self) -> Sequence[bytes]:
        """Returns, for each input, the body that would be sent for it alone: the key of its cache entry."""
        ...

    def without_cached(self, cached: Sequence[bytes | None]) -> "SplitRequest":
        """Returns the request for those inputs that the cache lacks."""
        ...

    def cache_entries(self, bodies: Sequence[bytes]) -> Sequence[tuple[int, bytes]]:
        """Splits Cohere's answers into one entry an input, with the input's index."""
        ...

    def translate_response(self, bodies: Sequence[bytes]) -> TranslatedResponse: ...
