"""The record of one request: who asked, for what, and what became of it.

It is the one thing of ours in a request's ASGI scope, under `REQUEST`. Metrics, the log line and the ledger's row are
made of it when the request ends (`lifecycle.py`). No credential is reachable from it: the headers that carry one are
left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias

from msgspec import UNSET, Struct, UnsetType
from starlette.types import Message, Scope

from gateway.auth.principal import NOBODY, Principal, RefusedKey
from gateway.memory_budget import UNLIMITED, RequestMemory
from gateway.observability.bodies import Bodies
from gateway.observability.call_controls import NO_CONTROLS, CallControls
from translators.core.contracts import UsageTotals
from translators.core.errors import Failure
from translators.core.faults import Fault
from translators.core.notes import Note

REQUEST = "gateway.request"
"""The key of the RequestRecord in a request's scope."""

DISCONNECT_FAILURE = "gateway.failure"
"""The key of a WebSocket's last message with the Failure for which the server closed it."""

CACHE_HIT = "hit"

MAX_NOTES, MAX_NOTE_LENGTH = 20, 300
"""Notes of a request that are recorded, and characters of each: a note may quote what a caller wrote."""

Door: TypeAlias = Literal["openai", "native", "websocket", "management"]
"""By which API a request came: OpenAI's, Cohere's own, a message on a WebSocket, the management of keys."""


class RequestSpan(Protocol):
    """The span of a request that is being served. trace_id: 32 hex digits. sampled: it is exported."""

    @property
    def trace_id(self) -> str: ...

    @property
    def sampled(self) -> bool: ...


class Attempt(Struct):
    """One call to Cohere of those that a request made.

    key      number of the server's Cohere key, from 1 in the order of the setting; 0 for the caller's own
    status   Cohere's; 0 where no response came
    trace_id Cohere's id of the call
    ms       until the response was read or given up, in milliseconds
    upstream its name, where there are several
    start_ms when it began, in milliseconds after the request; rows of older versions do not have it
    model    Cohere's name of it, where it is not that of the row: one that another took the place of
    error    the code of the error that it would have been for the caller
    """

    key: int
    status: int = 0
    trace_id: str = ""
    ms: float = 0.0
    upstream: str | UnsetType = UNSET
    start_ms: float | UnsetType = UNSET
    model: str | UnsetType = UNSET
    error: str | UnsetType = UNSET


class TimedAttempt(Attempt):
    """An attempt under way or over, with what the ledger does not keep of it.

    began: in monotonic seconds. is_sent: all of the request has been handed to the connection.
    """

    began: float = 0.0
    is_sent: bool = False

    @property
    def may_be_billed(self) -> bool:
        """Cohere may charge for it: it has the request and has not refused it, whatever of an answer has come."""
        return self.is_sent and (self.status == 0 or 200 <= self.status < 300)


class RequestRecord(Struct):
    """Times are the event loop's monotonic seconds; 0 means that it has not happened.

    id             of its row in the ledger; ids sort by the time at which they were given
    has_row        the request is one row of the ledger: false for what is no call, and for what has its row elsewhere
    address        of the caller
    cohere_method  the name of Cohere's method that it calls, as in the table of methods; empty before that is known
    headers        of the request, by lower-case name, without credentials; of a repeated one the last
    requested_model  the model as the caller wrote it; empty before that is known
    authentication_note  on a credential that was not taken
    deployment     the model that the URL names (Azure's), which replaces the body's
    replaced_model what the body named instead, if anything
    replaced_halves  the body had halves of surrogate pairs, which were replaced
    json_values    of a large body, counted before it is parsed; 0 of a small one
    background     a response that nobody waits for: it is counted apart
    connection     an open WebSocket: its messages are counted as being served, it is not
    memory         what it holds of the process's memory
    billed         Cohere's billed units by their names
    cost_nanodollars   of all attempts that were billed; None where that of one is unknown
    known_nanodollars  of those whose cost is known
    uncounted_calls    failed attempts for which Cohere may charge, and has not said how much
    saved_nanodollars  what the cache spared; None where the price is unknown
    price_version      of the prices that the cost was made with; empty where nothing was billed
    cached_tokens      of the prompt's, those that Cohere had in its own cache; thinking_tokens: of the completion's
    attempts       the calls to Cohere, in the order in which they began
    notes          the sentences of the notes on the request
    refused_key    the known key of a caller who was not let in
    reason         why policy refused the request, in a sentence of ours
    rate_limit_headers  of the response: the tightest limits of its caller
    estimated      some of the tokens were counted here, since Cohere never reported them
    controls       what the caller asks of the calls to Cohere
    span           of OpenTelemetry, where that is on; trace_headers: what calls to Cohere say of it, if they are to
    ended          when a response in the background ended, in Unix seconds; 0 before that, and for other requests
    fault          whose fault it is that the request failed, None where it did not
    bodies         takes the bodies for the ledger; None where they are not stored
    end_user, tags, metadata  for whom and for what the request is made, as the caller says (`http/attribution.py`)
    """

    request_id: str
    method: str
    path: str
    started: float
    headers: Mapping[bytes, bytes] = {}
    principal: Principal = NOBODY
    refused_key: RefusedKey | None = None
    memory: RequestMemory = UNLIMITED
    authentication_note: str = ""
    operation: str = "other"
    model: str = ""
    deployment: str = ""
    replaced_model: str = ""
    replaced_halves: bool = False
    background: bool = False
    connection: bool = False
    streamed: bool = False
    status: int = 0
    outcome: str = ""
    error: str = ""
    fault: Fault | None = None
    controls: CallControls = NO_CONTROLS
    span: RequestSpan | None = None
    trace_headers: tuple[tuple[str, str], ...] = ()
    end_user: str = ""
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = {}
    first_byte: float = 0.0
    upstream_began: float = 0.0
    upstream_ended: float = 0.0
    trace_id: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    thinking_tokens: int = 0
    cost_nanodollars: int | None = 0
    known_nanodollars: int = 0
    uncounted_calls: int = 0
    saved_nanodollars: int | None = 0
    price_version: str = ""
    estimated: bool = False
    billed: Mapping[str, int | float] = {}
    # msgspec gives each record a list of its own.
    attempts: list[TimedAttempt] = []
    notes: tuple[str, ...] = ()
    retries: int = 0
    cache: str = ""
    response_started: bool = False
    id: str = ""
    ended: float = 0.0
    has_row: bool = True
    address: str = ""
    door: Door = "openai"
    cohere_method: str = ""
    requested_model: str = ""
    reason: str = ""
    json_values: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    rate_limit_headers: Sequence[tuple[bytes, bytes]] = ()
    bodies: Bodies | None = None

    @property
    def strict(self) -> bool:
        """The caller wants nothing ignored or adjusted (`x-gateway-strict: true`)."""
        return self.headers.get(b"x-gateway-strict", b"").strip().lower() == b"true"

    def see_response(self, message: Message) -> None:
        """Records a message of the response as the endpoint sends it: its status, its bytes."""
        if message["type"] == "http.response.start":
            # From here on a failure can no longer be a status.
            self.status, self.response_started = message["status"], True
        else:
            self.bytes_sent += len(message.get("body", b""))
        if self.bodies is not None:
            self.bodies.add_message(message)

    def identify(self, principal: Principal) -> None:
        """Records who is calling."""
        # The memory has to know whose share it takes from.
        self.principal = self.memory.principal = principal

    def add_usage(self, usage: UsageTotals, cost: int | None, price_version: str) -> None:
        """Adds what Cohere counted of one answer, also of one that was not good enough to be shown.

        cost: nano-dollars; what is unknown makes the sum unknown.
        """
        self._add_tokens(usage)
        if usage.billed:
            before, now = self.billed, usage.billed
            # A new mapping for several: the old one may be Cohere's usage itself, of which others hold a reference.
            self.billed = (
                {name: before.get(name, 0) + now.get(name, 0) for name in {**before, **now}} if before else now
            )
        self._add_cost(cost, price_version)

    def add_estimate(self, prompt_tokens: int, completion_tokens: int, cost: int | None, price_version: str) -> None:
        """Adds what an answer may have consumed that broke off before Cohere had counted it."""
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.estimated = True
        self._add_cost(cost, price_version)

    def call_uncounted(self) -> None:
        """Takes note of a call that failed after it was sent, so that Cohere may charge for it."""
        self.uncounted_calls += 1

    def add_saved(self, usage: UsageTotals, saved: int | None) -> None:
        """Adds what an answer out of the cache would have consumed: its tokens are counted, it costs nothing."""
        self._add_tokens(usage)
        before = self.saved_nanodollars
        self.saved_nanodollars = None if before is None or saved is None else before + saved

    def _add_tokens(self, usage: UsageTotals) -> None:
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        self.cached_tokens += usage.cached_tokens
        self.thinking_tokens += usage.reasoning_tokens

    def _add_cost(self, cost: int | None, price_version: str) -> None:
        before = self.cost_nanodollars
        # Unknown and something is unknown. A sum without the unknown part would look like a price.
        self.cost_nanodollars = None if before is None or cost is None else before + cost
        self.known_nanodollars += cost or 0
        self.price_version = price_version

    def end_background(self) -> None:
        """Sets the status and the outcome of a background response that nothing else has set."""
        self.status = self.status or (500 if self.error else 200)
        self.outcome = self.outcome or ("error" if self.error else "ok")

    @property
    def trace(self) -> str:
        """The id of the trace that the request is part of, 32 hex digits, if it is exported; else empty."""
        return self.span.trace_id if self.span is not None and self.span.sampled else ""

    @property
    def method_group(self) -> str:
        """The first word of Cohere's method, `chat` of `v2.chat`; empty before that is known."""
        words = self.cohere_method.split(".")
        # Cohere's SDK has `v2.chat` beside `chat`.
        return words[1] if len(words) > 1 and words[0] in ("v1", "v2") else words[0]

    def seconds_per_token(self, now: float) -> float | None:
        """Returns the mean time between the tokens of a stream. None for what is no stream, or has one token."""
        # A cached stream has no pace of the model's, and one token has no time between.
        if not (self.streamed and self.first_byte and self.completion_tokens > 1) or self.cache == CACHE_HIT:
            return None
        return (now - self.first_byte) / (self.completion_tokens - 1)

    @property
    def cost_text(self) -> str:
        """US dollars without an exponent; empty where nothing was billed, or the cost is unknown."""
        cost = self.cost_nanodollars
        if cost is None or not (self.price_version or self.cache == CACHE_HIT):
            return ""
        dollars, rest = divmod(cost, 1_000_000_000)
        # Divided as whole numbers: a float would show digits that were never there.
        return f"{dollars}.{rest:09d}".rstrip("0").rstrip(".")

    def set_notes(self, notes: Iterable[Note]) -> None:
        """Takes the sentences of these notes in the place of those before, within bounds."""
        self.notes = tuple([note.text[:MAX_NOTE_LENGTH] for note in notes][:MAX_NOTES])

    def fail(self, failure: Failure) -> None:
        """Records that the response is this failure, or ended in it."""
        self.error, self.fault = failure.code or failure.type, failure.fault
        if failure.fault.startswith("policy_"):
            self.reason = (
                self.reason or failure.message
            )  # policy speaks of keys and limits, never in the caller's words


def record_of(scope: Scope) -> RequestRecord:
    """Returns the record that the middleware, or the WebSocket's handshake, put into this scope."""
    record: RequestRecord = scope[REQUEST]
    return record
