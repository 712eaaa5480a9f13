"""THE TABLE of what a failed call means: whether it is retried, and what becomes of the key.

Pure: clock and chance are passed in. `attempts.py` makes the retries; for a 200 response that turned out to be an
error, `pipeline/handler.py` does. Which failures are worth it: docs/cohere-api.md#retries.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum
from random import Random

from msgspec import Struct

from gateway.settings.schema import Retries


class KeyAction(Enum):
    """What becomes of the key that was used, if it is one of the server's."""

    KEEP = "keep"
    COOL_DOWN = "cool down"
    DISABLE = "disable"


class Rule(Struct, frozen=True):
    """A row: what is done about a failure.

    retry: the same call may succeed a moment later. key: what becomes of the key. breaks: the circuit breaker counts
    it. once: it is retried once only, and only if the setting `retries.invalid_generation` allows it.
    """

    retry: bool = False
    key: KeyAction = KeyAction.KEEP
    breaks: bool = False
    once: bool = False


_BROKEN = Rule(retry=True, breaks=True)

RULES: Mapping[int | str, Rule] = {
    "unreachable": _BROKEN,
    "cut": _BROKEN,
    # It is the gateway that is short of them, and says nothing of Cohere.
    "descriptors": Rule(retry=True),
    # A retry would slow down a model that is slow already.
    "silent": Rule(breaks=True),
    # No retry by the table: the next attempt has another key, which is no repetition (`attempts.py`).
    401: Rule(key=KeyAction.DISABLE),
    402: Rule(key=KeyAction.DISABLE),
    429: Rule(retry=True, key=KeyAction.COOL_DOWN),
    "month": Rule(key=KeyAction.DISABLE),
    "generation": Rule(retry=True, once=True),
    # 501 is missing: what is not implemented will not be a moment later. So are 498 and 499, which are about the
    # request (docs/cohere-api.md#errors).
    408: _BROKEN,
    500: _BROKEN,
    502: _BROKEN,
    503: _BROKEN,
    504: _BROKEN,
}
"""By the status or, where there was none, by what happened to the connection. What is not listed is final."""

FINAL = Rule()

OWN_KEY_RULES: Mapping[int | str, Rule] = {429: FINAL}
"""Where the key is the caller's own, these rows hold instead: their SDK obeys Retry-After itself."""

GENERATION_ERRORS = frozenset(
    {"INVALID_TOOL_GENERATION", "HALLUCINATED_ALL_TOOL_CALLS", "NO_VALID_RESPONSE_GENERATED"},
)
"""Error types of Cohere's 422 for a model's output that may be valid the next time (docs/cohere-api.md#errors)."""

RESPONSE_RULES: Mapping[str | None, Rule] = {
    "upstream_error": Rule(retry=True),
    "upstream_cut": Rule(retry=True),
    **dict.fromkeys(GENERATION_ERRORS, RULES["generation"]),
}
"""By the failure's code: 200 responses that turned out to be errors before the caller got anything of them."""

MAX_RETRY_AFTER = 86_400.0
"""Seconds that a Retry-After header may ask for; more is read as this."""

_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
"""Whole seconds by RFC 9110; some proxies send fractions, and OpenAI's SDKs read them."""


def cause_of(status: int, code: str | None) -> int | str:
    """Returns the key in RULES of an error response with this status, whose failure has this code."""
    if status == 429 and code == "insufficient_quota":
        return "month"
    if status == 422 and code in GENERATION_ERRORS:
        return "generation"
    return status


def rule_for(cause: int | str, own_key: bool = False) -> Rule:
    """Returns the row for a status or for what happened to the connection. own_key: the key is the caller's own."""
    rule = OWN_KEY_RULES.get(cause) if own_key else None
    return rule or RULES.get(cause, FINAL)


def parse_retry_after(value: str, now: float) -> float | None:
    """Returns the header in seconds: it is a number, or a date, which is compared with `now` (Unix seconds).

    None for what is neither.
    """
    if _NUMBER.fullmatch(value):
        seconds = float(value)
    else:
        moment = seconds_of_date(value) if value else None
        if moment is None:
            return None
        seconds = moment - now
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def seconds_of_date(value: str) -> float | None:
    """Returns a header's date in Unix seconds; None for what is no date."""
    try:
        moment = parsedate_to_datetime(value)
        # HTTP has dates in UTC alone, and its oldest form does not say so (RFC 9110, 5.6.7).
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def retry_after_header(value: str) -> str | None:
    """Returns the header as a caller may have it: a number of seconds or a date (RFC 9110, 10.2.3), else None."""
    return None if parse_retry_after(value, 0.0) is None else value


class RetryBudget:
    """What is left of one request's retries. started: when the first call was made, by `clock`."""

    def __init__(self, settings: Retries, started: float, clock: Callable[[], float], random: Random) -> None:
        self._settings, self._started, self._clock, self._random = settings, started, clock, random
        self._retries = 0

    def next_delay(self, rule: Rule, retry_after: float | None = None) -> float | None:
        """Returns the seconds before the next retry, None if there is none. retry_after: what Cohere asks for."""
        settings = self._settings
        if not rule.retry or self._retries >= settings.count:
            return None
        if rule.once and (self._retries or not settings.invalid_generation):
            return None
        # Half of the delay is chance: calls that failed together should not come back together.
        delay: float = min(settings.initial_backoff * 2**self._retries, settings.max_backoff) * (
            0.5 + self._random.random() / 2
        )
        # What failed is the model's output. Cohere is not overloaded, so that waiting would change nothing.
        if rule.once:
            delay = 0.0
        # A little chance on top, but never sooner than Cohere asks for.
        if retry_after is not None:
            delay = max(retry_after + delay * 0.1, delay)
        if self._clock() + delay - self._started > settings.budget:
            return None
        self._retries += 1
        return delay

    @property
    def seconds_left(self) -> float:
        """Seconds of the budget; negative when it is used up."""
        return self._started + self._settings.budget - self._clock()
