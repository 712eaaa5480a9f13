"""Durations as LiteLLM writes them: `30s`, `15m`, `24h`, `7d`, `2w`, `1mo`. Pure."""

import calendar
import re
from datetime import UTC, datetime

UNIT_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}
_DURATION = re.compile(r"([1-9][0-9]{0,8})(mo|[smhdw])\Z")

MOST_SECONDS = 100 * 366 * 86_400
"""The longest duration: a century."""

MOST_BUDGET_SECONDS = 10 * 366 * 86_400
"""The longest window of a budget: ten years."""

FORM = "a duration such as 30s, 15m, 24h, 7d or 1mo"


def check(text: str, most_seconds: int = MOST_SECONDS) -> str:
    """Returns a duration. Raises ValueError, whose sentence says what a duration looks like."""
    count, unit = parse(text)
    # The longest month, as the bound is for all of them.
    if count * (31 * 86_400 if unit == "mo" else UNIT_SECONDS[unit]) > most_seconds:
        raise ValueError(f"'{text}' is longer than {most_seconds // (366 * 86_400)} years")
    return text


def after(now: float, text: str) -> float:
    """Returns the moment that lies a duration after another one, in Unix seconds. Raises ValueError as `check`.

    A month ends on the same day of the next one, or on its last day where that is shorter.
    """
    count, unit = parse(check(text))
    if unit != "mo":
        return now + count * UNIT_SECONDS[unit]
    moment = datetime.fromtimestamp(now, UTC)
    months = moment.year * 12 + moment.month - 1 + count
    year, month = months // 12, months % 12 + 1
    day = min(moment.day, calendar.monthrange(year, month)[1])
    return moment.replace(year=year, month=month, day=day).timestamp()


def parse(text: str) -> tuple[int, str]:
    """Returns the number and the unit of a duration, however long. Raises ValueError as `check`."""
    match = _DURATION.match(text)
    if match is None:
        raise ValueError(f"'{text[:40]}' is not {FORM}")
    return int(match[1]), match[2]
