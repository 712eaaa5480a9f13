"""A row of the ledger: one call, whatever became of it, with the names that reports, console and documents share.

`entry_of` makes it of a finished request record, on the event loop of the requests. No body, no prompt and no secret is
in it. Its sentence is made in `sentences.py`, its place in the database is `gateway/store/ledger.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import asdict

from gateway.auth.principal import NOBODY, Principal
from gateway.observability.clock import milliseconds
from gateway.observability.record import Attempt, Door, RequestRecord
from gateway.virtual_keys import Rights

MAX_NAME_LENGTH = 256
"""Characters of a name that a caller chose: a model, an end user, a tag."""

MAX_ATTEMPTS = 100
"""Calls to Cohere of one request that a row lists; a split request may make thousands."""

MAX_TAGS, MAX_UNITS = 20, 20

MAX_COUNT = 10**12
"""Units of one kind that a row has at most: what Cohere says beyond it no invoice has, and no sum could hold."""

OWN_KEY = "own key"
"""The `key_id` of callers who bring a Cohere key: nothing that could be traced to the key."""

Decision = Literal["allowed", "refused", "limited"]

_LIMITING = ("policy_rate_limit", "policy_budget", "policy_capacity")


class Tokens(Struct, frozen=True, gc=False):
    """As the caller's `usage` shows them."""

    input: int = 0
    output: int = 0
    cached: int = 0
    thinking: int = 0


class Bytes(Struct, frozen=True, gc=False):
    """Of the bodies."""

    received: int = 0
    sent: int = 0


class LedgerEntry(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One row. `None` is unknown, or does not apply.

    time          when the call ended, RFC 3339 in UTC
    at            the same as microseconds since 1970
    key_id        of a virtual key, also of one that was refused; `master`, `demo`, `open` or `own key` for callers
                  without one
    door          the API by which it came
    method        Cohere's, as in the table of methods
    object        what it acts on at Cohere, by its id
    units         what Cohere billed, by Cohere's names
    cost_nanodollars  None where the price is unknown
    ms            `ttft_ms` to the first byte of a stream, `total_ms` to the last byte, `upstream_ms` spent at Cohere,
                  `overhead_ms` the rest
    decision      `limited` is a refusal that goes away by itself
    metadata      as the caller wrote it beside the call (`http/attribution.py`)
    has_body      its bodies are stored as well, until they are too old
    """

    id: str
    at: int
    time: str
    kind: Literal["call"] = "call"
    sentence: str = ""
    request_id: str
    key_id: str | None = None
    key_alias: str | None = None
    team_id: str | None = None
    user_id: str | None = None
    end_user: str | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = {}
    address: str | None = None
    door: Door = "openai"
    operation: str = ""
    method: str | None = None
    object: str | None = None
    model_asked: str | None = None
    model: str | None = None
    streamed: bool = False
    status: int = 0
    outcome: str = ""
    fault: str | None = None
    error: str | None = None
    units: Mapping[str, int | float] = {}
    tokens: Tokens = Tokens()
    estimated: bool = False
    # 0 and not None: the default is left out of the JSON, and what is unknown has to be told there.
    cost_nanodollars: int | None = 0
    price_version: str | None = None
    attempts: tuple[Attempt, ...] = ()
    cache: str | None = None
    saved_nanodollars: int | None = None
    # `store/ledger_pages.py` looks for this name in the JSON, where an empty field has none.
    notes: tuple[str, ...] = ()
    ttft_ms: float | None = None
    total_ms: float = 0.0
    upstream_ms: float | None = None
    overhead_ms: float | None = None
    bytes: Bytes = Bytes()
    decision: Decision = "allowed"
    has_body: bool = False

    @property
    def failed(self) -> bool:
        """The caller did not get what was asked for."""
        return self.outcome != "ok"

    @property
    def unpriced(self) -> bool:
        """Something was billed, and nobody knows what it costs."""
        return self.cost_nanodollars is None

    def row(self) -> dict[str, Any]:
        """Returns the row as reports show it: every name is there."""
        values = asdict(self)
        del values["at"]
        return values


encode_entry = msgspec.json.Encoder().encode
decode_entry = msgspec.json.Decoder(LedgerEntry).decode


def entry_of(record: RequestRecord, now: float, clock: float, subject: str | None = None) -> LedgerEntry:
    """Returns the row of a finished record, without its sentence.

    now: when it ended, in the record's monotonic seconds; clock: the same in Unix seconds. subject: what Cohere's
    method acts on.
    """
    at = int(clock * 1_000_000)
    principal, fault = record.principal, str(record.fault) if record.fault else None
    refused = record.refused_key
    # A refused key is nobody's principal, and its owner looks for the row all the same.
    key, team = (principal.key, principal.team) if refused is None else (refused.key, refused.team)
    tags: Sequence[str] = record.tags
    if (key is not None and key.tags) or (team is not None and team.tags):
        tags = _with_tags_of((key, team), tags)
    total = now - record.started
    upstream = record.upstream_ended - record.upstream_began if record.upstream_ended else None
    return LedgerEntry(
        id=record.id,
        at=at,
        time=timestamp(at),
        request_id=record.request_id,
        key_id=key_id_of(principal) if refused is None else refused.key.key_id,
        key_alias=(principal.name if refused is None else refused.key.key_alias or refused.key.key_id) or None,
        team_id=team.team_id if team is not None else key.team_id if key is not None else None,
        user_id=(principal.user_id if refused is None else refused.key.user_id) or None,
        end_user=clean(record.end_user) or None,
        # Most calls have none: a comprehension is a call, even of nothing.
        tags=tuple([clean(tag) for tag in tags[:MAX_TAGS]]) if tags else (),
        metadata=_cleaned(record.metadata) if record.metadata else {},
        address=record.address or None,
        door=record.door,
        operation=record.operation,
        method=record.cohere_method or None,
        object=subject,
        model_asked=clean(record.requested_model) or None,
        model=clean(record.model) or None,
        streamed=record.streamed,
        status=record.status,
        outcome=record.outcome,
        fault=fault,
        error=record.error or None,
        units=_units(record.billed),
        tokens=Tokens(record.prompt_tokens, record.completion_tokens, record.cached_tokens, record.thinking_tokens),
        estimated=record.estimated,
        cost_nanodollars=record.cost_nanodollars,
        price_version=record.price_version or None,
        attempts=tuple(
            # A copy: `began` becomes milliseconds since the request came, and the request's own model is left out.
            [
                Attempt(
                    one.key,
                    one.status,
                    one.trace_id,
                    one.ms,
                    one.upstream,
                    milliseconds(max(one.began - record.started, 0.0)) if one.began else UNSET,
                    UNSET if one.model == record.model else one.model,
                    one.error,
                )
                for one in record.attempts[:MAX_ATTEMPTS]
            ]
        ),
        cache=record.cache or None,
        saved_nanodollars=record.saved_nanodollars if record.cache else None,
        # Notes are ours, and quote what callers wrote.
        notes=tuple([clean(note, len(note)) for note in record.notes]) if record.notes else (),
        ttft_ms=milliseconds(record.first_byte - record.started) if record.first_byte else None,
        total_ms=milliseconds(total),
        upstream_ms=milliseconds(upstream) if upstream is not None else None,
        overhead_ms=milliseconds(max(total - upstream, 0.0)) if upstream is not None else None,
        bytes=Bytes(record.bytes_received, record.bytes_sent),
        decision=_decision(fault, principal),
    )


def _with_tags_of(records: Iterable[Rights | None], tags: Iterable[str]) -> Sequence[str]:
    """Returns the tags of a request behind those of its key and team: no request crowds out what the operator says."""
    own = [tag for record in records if record is not None for tag in record.tags or ()]
    return tuple(dict.fromkeys((*own, *tags)))


def key_id_of(principal: Principal) -> str | None:
    """Returns the id that usage is counted under; None for somebody who was not let in."""
    if principal.key is not None:
        return principal.key.key_id
    if principal is NOBODY:
        return None
    return OWN_KEY if principal.own_key else principal.owner


def timestamp(at: int) -> str:
    """Returns microseconds since 1970 as RFC 3339 in UTC, with microseconds."""
    return f"{_second(at // 1_000_000)}.{at % 1_000_000:06d}Z"


@lru_cache(maxsize=256)
def _second(second: int) -> str:
    """Formats a second of Unix time; cached, because rows are made in the order of time."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _units(billed: Mapping[str, int | float]) -> Mapping[str, int | float]:
    """Returns billed units within bounds, by names that every database and terminal can hold."""
    # Nearly always nothing has to be changed, and the record's own map will do.
    for name, amount in billed.items():
        if type(amount) is not int or not 0 <= amount <= MAX_COUNT or not name.isascii() or not name.isprintable():
            break
    else:
        if len(billed) <= MAX_UNITS:
            return billed
    return {clean(name): min(max(amount, 0), MAX_COUNT) for name, amount in [*billed.items()][:MAX_UNITS]}


def _cleaned(metadata: Mapping[str, str]) -> Mapping[str, str]:
    return {clean(name): clean(value, len(value)) for name, value in metadata.items()}


def _decision(fault: str | None, principal: Principal) -> Decision:
    if fault is None:
        return "allowed"
    if fault in _LIMITING:
        return "limited"
    return "refused" if fault.startswith("policy_") or principal is NOBODY else "allowed"


def clean(text: str, length: int = MAX_NAME_LENGTH) -> str:
    """Returns a caller's text as every database and terminal can hold it, and as a filter finds it."""
    text = text[:length]
    # Most names are such, and to look at each letter takes far longer.
    if text.isascii() and text.isprintable():
        return text
    return "".join(one if one.isprintable() else "\ufffd" for one in text)
