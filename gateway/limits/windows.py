"""The windows of budgets: what `budget_duration` means, and when the present window began and ends. Pure.

`30s`, `15m`, `1h`, `1d`, `1w`, `1mo`. Windows lie on the UTC calendar, so that all gateways agree on them without
asking each other: seconds, minutes and hours count from midnight of 1 January 1970, days likewise, weeks begin on
Monday (`7d` is a week), months on their first day. No duration is one window without an end.
"""

import re
from datetime import UTC, datetime

from msgspec import Struct

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}

_FIRST_MONDAY = 4 * 86_400
"""1 January 1970 was a Thursday."""

_DURATION = re.compile(r"([1-9][0-9]{0,6})(mo|[smhdw])\Z")

_MOST_SECONDS = 10 * 366 * 86_400
_MOST_MONTHS = 120


class Window(Struct, frozen=True):
    """One window of a budget. start, end: Unix seconds; both are 0 for a budget that never begins anew."""

    start: int
    end: int


ENDLESS = Window(0, 0)


def check_duration(duration: str) -> str:
    """Returns a duration. Raises ValueError, whose sentence says what a duration looks like."""
    match = _DURATION.match(duration)
    if match is None:
        raise ValueError(f"'{duration}' is not a duration such as 30s, 15m, 1h, 1d, 7d or 1mo")
    count, unit = int(match[1]), match[2]
    if count > _MOST_MONTHS if unit == "mo" else count * _SECONDS[unit] > _MOST_SECONDS:
        raise ValueError(f"'{duration}' is longer than ten years")
    return duration


def window_at(duration: str | None, now: float) -> Window:
    """Returns the window that `now` (Unix seconds) is in. Raises ValueError as `check_duration`."""
    if not duration:
        return ENDLESS
    match = _DURATION.match(check_duration(duration))
    assert match is not None
    count, unit = int(match[1]), match[2]
    if unit == "mo":
        return _months(count, now)
    length = count * _SECONDS[unit]
    origin = _FIRST_MONDAY if length % _SECONDS["w"] == 0 else 0
    start = int((now - origin) // length) * length + origin
    return Window(start, start + length)


def _months(count: int, now: float) -> Window:
    moment = datetime.fromtimestamp(now, UTC)
    first = (moment.year * 12 + moment.month - 1) // count * count
    return Window(_first_day(first), _first_day(first + count))


def _first_day(months: int) -> int:
    """Returns the beginning of a month in Unix seconds. months: since the year 0."""
    return int(datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC).timestamp())
