"""The sums that a group of rows adds to those in the database, by hour and by day."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from copy import copy

from gateway.ledger.entry import LedgerEntry
from gateway.store.ledger import MICROSECONDS
from gateway.store.ledger_sums import (
    COUNTED_UNITS,
    DAY,
    HOUR,
    OTHER_END_USERS,
    SUMMED,
    Scope,
    SumKey,
    Sums,
    counts_latency,
)
from gateway.store.tables import LATENCY_BOUNDS

_BUCKETS = len(LATENCY_BOUNDS) + 1

MAX_END_USERS = 1000
"""End users of an hour, and of a day, that a process counts by name: anybody may write any name into a request."""

WHOLE_UNITS = ("input_tokens", "output_tokens")
"""Units whose sums are whole numbers. Cohere counts them in such, and its SDK declares them as floats."""

_HOUR = HOUR * MICROSECONDS

MAX_PERIODS = 6
"""Hours and days whose end users a process remembers."""


class EndUserNames:
    """The end users of the hours and days of late that are counted by name."""

    def __init__(self, most: int = MAX_END_USERS) -> None:
        self._most = most
        self._names: dict[tuple[int, int], set[str]] = {}

    def counted(self, seconds: int, start: int, name: str) -> str:
        """Returns the name under which an end user counts in a period: so many seconds from `start` on."""
        names = self._names.setdefault((seconds, start), set())
        if name not in names:
            if len(names) >= self._most:
                return OTHER_END_USERS
            names.add(name)
        if len(self._names) > MAX_PERIODS:
            # The one that was seen first. If a row of it comes all the same, its names are counted anew.
            del self._names[next(iter(self._names))]
        return name


def sums_of(entries: Iterable[LedgerEntry], names: EndUserNames) -> Mapping[SumKey, Sums]:
    """Returns what these rows add."""
    hours: dict[tuple[int, str, str, str, str, str, str], Sums] = {}
    end_users: dict[tuple[int, str], Sums] = {}
    for entry in entries:
        hour = entry.at // _HOUR * HOUR
        group = (
            hour,
            entry.key_id or "",
            entry.team_id or "",
            entry.user_id or "",
            entry.model or "",
            entry.method or "",
            entry.fault or "",
        )
        total = hours.get(group)
        if total is None:
            total = hours[group] = Sums()
        _add(total, entry)
        if entry.end_user:
            total = end_users.get((hour, entry.end_user))
            if total is None:
                total = end_users[hour, entry.end_user] = Sums()
            _add(total, entry)
    return _by_period(hours, end_users, names)


def _by_period(
    hours: Mapping[tuple[int, str, str, str, str, str, str], Sums],
    end_users: Mapping[tuple[int, str], Sums],
    names: EndUserNames,
) -> Mapping[SumKey, Sums]:
    """Returns sums by hour as those by hour and by day: a group of rows has far fewer of them than rows."""
    sums: dict[SumKey, Sums] = {}
    for seconds in (HOUR, DAY):
        for (hour, key_id, team_id, user_id, model, method, fault), total in hours.items():
            start = hour - hour % seconds
            key = SumKey(int(Scope.CALLS), seconds, start, key_id, team_id, user_id, "", model, method, fault)
            _merge(sums, key, total)
            key = SumKey(int(Scope.MODELS), seconds, start, model=model, method=method, fault=fault)
            _merge(sums, key, total)
        for (hour, name), total in end_users.items():
            start = hour - hour % seconds
            key = SumKey(int(Scope.END_USERS), seconds, start, end_user=names.counted(seconds, start, name))
            _merge(sums, key, total)
    return sums


def _merge(sums: dict[SumKey, Sums], key: SumKey, more: Sums) -> None:
    """Adds a sum to the one of a key. A list of latencies may be shared, so none is changed."""
    latency = counts_latency(key)
    total = sums.get(key)
    if total is None:  # as it nearly always is: a copy takes half as long
        total = sums[key] = copy(more)
        if not latency:
            total.latencies = []
        return
    for name in SUMMED:
        setattr(total, name, getattr(total, name) + getattr(more, name))
    if latency and more.latencies:
        pairs = zip(total.latencies, more.latencies, strict=True)
        total.latencies = [one + other for one, other in pairs] if total.latencies else more.latencies


def _add(total: Sums, entry: LedgerEntry) -> None:
    total.calls += 1
    total.failures += entry.failed
    total.unpriced_calls += entry.unpriced
    total.cost += entry.cost_nanodollars or 0
    total.total_ms += entry.total_ms
    tokens = entry.tokens
    total.input += tokens.input
    total.output += tokens.output
    total.cached += tokens.cached
    total.thinking += tokens.thinking
    for unit, amount in entry.units.items():
        if unit in COUNTED_UNITS:
            setattr(total, unit, getattr(total, unit) + (round(amount) if unit in WHOLE_UNITS else amount))
    if not entry.failed:
        _add_latencies(total, entry)


def _add_latencies(total: Sums, entry: LedgerEntry) -> None:
    """Counts how long a call took that was served: how soon others were refused says nothing about models."""
    latencies = total.latencies
    if not latencies:
        latencies = total.latencies = [0] * (2 * _BUCKETS)
    latencies[bisect_left(LATENCY_BOUNDS, entry.total_ms)] += 1
    if entry.ttft_ms is not None:
        latencies[_BUCKETS + bisect_left(LATENCY_BOUNDS, entry.ttft_ms)] += 1
