"""What is known of one request while it is served: the source of its log line and its metrics.

No secret and no word of the caller's is ever put in here.
"""

from collections.abc import Mapping
from random import Random, SystemRandom

from msgspec import Struct
from starlette.types import Scope

from translators.core.contracts import UsageTotals

CACHE_HIT = "hit"

_random = Random(SystemRandom().getrandbits(256))


def new_id() -> str:
    """24 hex digits that no two requests share. Not a secret: asking the system each time would cost more."""
    return f"{_random.getrandbits(96):024x}"


class RequestRecord(Struct):
    """Times are the event loop's monotonic seconds; 0 means it has not happened. billed: Cohere's own count.
    estimated: among the tokens are some that Cohere never told.
    """

    request_id: str
    method: str
    path: str
    started: float
    operation: str = "other"
    model: str = ""
    caller: str = ""
    streamed: bool = False
    status: int = 0
    outcome: str = ""
    error: str = ""
    first_byte: float = 0.0
    upstream_began: float = 0.0
    upstream_ended: float = 0.0
    trace_id: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    billed: Mapping[str, int | float] = {}
    notes: int = 0
    retries: int = 0
    cache: str = ""
    response_started: bool = False


def of(scope: Scope) -> RequestRecord:
    """The exchange that the guard put into this request's scope."""
    found: RequestRecord = scope["gateway.exchange"]
    return found


def used(known: RequestRecord, outcome: UsageTotals, pieces: int = 0) -> None:
    """What Cohere counted of an answer. Added up: one that was not good enough to be shown was made all the same.

    pieces: of a stream. Cohere counts at its end; if that never came, say because the caller has left, what was made is
    known by its pieces, each of which is about a token.
    """
    if pieces and not (outcome.prompt_tokens or outcome.completion_tokens or outcome.billed):
        known.completion_tokens += pieces
        known.estimated = True
    known.prompt_tokens += outcome.prompt_tokens
    known.completion_tokens += outcome.completion_tokens
    if known.cache != CACHE_HIT:  # what was paid for before is not paid for again
        before, now = known.billed, outcome.billed
        known.billed = {name: before.get(name, 0) + now.get(name, 0) for name in {**before, **now}}
