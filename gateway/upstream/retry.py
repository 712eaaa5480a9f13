"""THE TABLE of what a failed call means: is Cohere asked again, and what becomes of the key.

Pure: clock and chance are passed in. Who asks again is `client.py`; for answers that came with 200 and are none,
`handler.py`. Which failures are worth it: docs/cohere-api.md#retries.
"""

from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from enum import Enum
from random import Random

from msgspec import Struct

from gateway.settings.schema import Retries


class Key(Enum):
    """What becomes of the key that was used, if it is one of the server's."""

    KEPT = "kept"
    COOLS = "cools"
    PARKED = "parked"


class Rule(Struct, frozen=True):
    """A row: what is done about a failure.

    again: the same call may succeed a moment later. key: what becomes of the key. breaks: the circuit breaker counts
    it. once: it is made again once only, and only if the setting `retries.invalid_generation` allows it.
    """

    again: bool = False
    key: Key = Key.KEPT
    breaks: bool = False
    once: bool = False


_BROKEN = Rule(again=True, breaks=True)

RULES: Mapping[int | str, Rule] = {
    "unreachable": _BROKEN,
    "cut": _BROKEN,
    # Asked again, a model that is slow would be slower.
    "silent": Rule(breaks=True),
    401: Rule(key=Key.PARKED),
    402: Rule(key=Key.PARKED),
    429: Rule(again=True, key=Key.COOLS),
    "month": Rule(key=Key.PARKED),
    "generation": Rule(again=True, once=True),
    500: _BROKEN,
    502: _BROKEN,
    503: _BROKEN,
    504: _BROKEN,
}
"""By the status or, where there was none, by what happened to the connection. What is not listed is final."""

_FINAL = Rule()

GENERATIONS = frozenset(
    {"INVALID_TOOL_GENERATION", "HALLUCINATED_ALL_TOOL_CALLS", "NO_VALID_RESPONSE_GENERATED"},
)
"""Error types of a 422 that another throw of the dice may mend (docs/cohere-api.md#errors)."""

ANSWERS: Mapping[str | None, Rule] = {
    "upstream_error": Rule(again=True),
    "upstream_cut": Rule(again=True),
    **dict.fromkeys(GENERATIONS, RULES["generation"]),
}
"""By the failure's code: answers that began with 200 and turned out to be none before anything of them was told."""

LONGEST_RETRY_AFTER = 86_400.0


def trouble(status: int, code: str | None) -> int | str:
    """The name in RULES of a refusal with this status that was translated to this code."""
    if status == 429 and code == "insufficient_quota":
        return "month"
    if status == 422 and code in GENERATIONS:
        return "generation"
    return status


def rule(what: int | str) -> Rule:
    """The row for a status or for what happened to the connection; final for what has none."""
    return RULES.get(what, _FINAL)


def retry_after(value: str | None, now: float) -> float | None:
    """The header in seconds: a number, or a date, which is compared with `now` (Unix seconds)."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER) if seconds == seconds else None


class RetryBudget:
    """What is left of one request's retries.

    began: when Cohere was first asked, by `clock`.
    """

    def __init__(self, settings: Retries, began: float, clock: Callable[[], float], random: Random) -> None:
        self._settings, self._began, self._clock, self._random = settings, began, clock, random
        self._asked = 0

    def pause(self, rule: Rule, told: float | None = None) -> float | None:
        """Seconds to wait before Cohere is asked again, None if it is not. told: what Cohere asks for (Retry-After)."""
        settings = self._settings
        if (
            not rule.again
            or self._asked >= settings.count
            or (rule.once and (self._asked or not settings.invalid_generation))
        ):
            return None
        # Half of the pause is chance: who failed together should not come back together.
        pause: float = min(settings.initial_backoff * 2**self._asked, settings.max_backoff) * (
            0.5 + self._random.random() / 2
        )
        if rule.once:
            pause = 0.0
        if told is not None:
            pause = max(told + pause * 0.1, pause)
        if self._clock() + pause - self._began > settings.budget:
            return None
        self._asked += 1
        return pause

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self._began + self._settings.budget - self._clock()
