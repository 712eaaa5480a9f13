"""The windows of budgets: what `budget_duration` means, and when the present window began and ends. Pure.

`30s`, `15m`, `1h`, `1d`, `1w`, `1mo`. Windows lie on the UTC calendar, so that all gateways agree on them without
asking each other: seconds, minutes and hours count from midnight of 1 January 1970, days likewise, weeks begin on
Monday (`7d` is a week), months on their first day (`30d` is a month). No duration is one window without an end.
"""

from datetime import UTC, datetime

from msgspec import Struct

from gateway.durations import MOST_BUDGET_SECONDS, UNIT_SECONDS, check, parse

A_MONTH = "30d"
"""What people write for a month, LiteLLM's users above all, whose budgets of 30 days begin on the first of a month."""

_FIRST_MONDAY = 4 * 86_400
"""1 January 1970 was a Thursday."""


class Window(Struct, frozen=True):
    """One window of a budget. start, end: Unix seconds; both are 0 for a budget that never begins anew."""

    start: int
    end: int


ENDLESS = Window(0, 0)


def check_duration(duration: str) -> str:
    """Returns a duration. Raises ValueError, whose sentence says what a duration looks like."""
    return check(duration, MOST_BUDGET_SECONDS)


def window_at(duration: str | None, now: float) -> Window:
    """Returns the window that `now` (Unix seconds) is in. Raises ValueError as `check_duration`."""
    if not duration:
        return ENDLESS
    count, unit = parse(check_duration(duration))
    if unit == "mo":
        return _months(count, now)
    if duration == A_MONTH:
        return _months(1, now)
    length = count * UNIT_SECONDS[unit]
    # Weeks, and what is a whole number of them: the other lengths count from 1 January 1970.
    origin = _FIRST_MONDAY if length % UNIT_SECONDS["w"] == 0 else 0
    start = int((now - origin) // length) * length + origin
    return Window(start, start + length)


def _months(count: int, now: float) -> Window:
    moment = datetime.fromtimestamp(now, UTC)
    # Counted from the year 0, so that quarters begin in January.
    first = (moment.year * 12 + moment.month - 1) // count * count
    return Window(_first_day(first), _first_day(first + count))


def _first_day(months: int) -> int:
    """Returns the beginning of a month in Unix seconds. months: since the year 0."""
    return int(datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC).timestamp())
