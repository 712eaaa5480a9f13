"""The sums that a group of rows adds to those in the database, by hour and by day."""

from collections.abc import Iterable, Mapping

from gateway.ledger.entry import LedgerEntry
from gateway.store.ledger import COUNTED_UNITS, DAY, HOUR, MICROSECONDS, OTHER_END_USERS, Scope, SumKey, Sums

MAX_END_USERS = 1000
"""End users of an hour, and of a day, that a process counts by name: anybody may write any name into a request."""

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
            del self._names[next(iter(self._names))]
        return name


def sums_of(entries: Iterable[LedgerEntry], names: EndUserNames) -> Mapping[SumKey, Sums]:
    """Returns what these rows add."""
    sums: dict[SumKey, Sums] = {}
    for entry in entries:
        second = entry.at // MICROSECONDS
        for seconds in (HOUR, DAY):
            start = second - second % seconds
            key = SumKey(
                int(Scope.CALLS),
                seconds,
                start,
                entry.key_id or "",
                entry.team_id or "",
                entry.user_id or "",
                "",
                entry.model or "",
                entry.method or "",
                entry.fault or "",
            )
            _add(sums, key, entry)
            if entry.end_user:
                end_user = names.counted(seconds, start, entry.end_user)
                _add(sums, SumKey(int(Scope.END_USERS), seconds, start, end_user=end_user), entry)
    return sums


def _add(sums: dict[SumKey, Sums], key: SumKey, entry: LedgerEntry) -> None:
    total = sums.get(key)
    if total is None:
        total = sums[key] = Sums()
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
            setattr(total, unit, getattr(total, unit) + amount)
