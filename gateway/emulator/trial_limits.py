"""The rate limits of a trial key, per minute and per month, and the headers that show them.

Recorded: responses of rerank, and 429 responses, carry no trial headers.
Source: docs/cohere-api.md#rate-limits
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.emulator.errors import APIError

# path, as in `routes.ROUTES` -> calls per minute
PER_MINUTE = {
    "/v2/chat": 20, "/v1/chat": 20, "/v2/rerank": 10, "/v1/rerank": 10, "/v2/embed": 2_000, "/v1/embed": 2_000,
    "/v1/embed-jobs": 5, "/v1/tokenize": 100, "/v2/audio/transcriptions": 5,
}  # fmt: skip
DEFAULT_PER_MINUTE = 500
PER_MONTH = 1_000
MINUTE_SECONDS = 60
MONTH_SECONDS = 30 * 24 * 3_600
PATHS_WITHOUT_HEADERS = ("/v2/rerank", "/v1/rerank")

SENTENCE = (
    "You are using a Trial key, which is limited to {limit} API calls / {span}. You can continue to use the"
    " Trial key for free or upgrade to a Production key with higher rate limits at"
    " 'https://dashboard.cohere.com/api-keys'. Contact us on 'https://discord.gg/XW44jPfYJu' or email us at"
    " support@cohere.com with any questions"
)


class TrialLimits:
    """Counts the calls of each key in fixed windows of a minute and a month."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.counts: dict[tuple[str, str, int], int] = {}  # (key, path or "month", number of the window)

    def count_call(self, key: str, path: str) -> list[tuple[bytes, bytes]]:
        """Counts one call and returns the headers of its response. Raises a 429 when the key is past a limit."""
        limit = PER_MINUTE.get(path, DEFAULT_PER_MINUTE)
        if self._count(key, "month", MONTH_SECONDS) > PER_MONTH:
            raise APIError(429, SENTENCE.format(limit=PER_MONTH, span="month"))
        used = self._count(key, path, MINUTE_SECONDS)
        if used > limit:
            raise APIError(429, SENTENCE.format(limit=limit, span="minute"))
        if path in PATHS_WITHOUT_HEADERS:
            return []
        return [
            (b"x-endpoint-monthly-call-limit", str(PER_MONTH).encode()),
            (b"x-trial-endpoint-call-limit", str(limit).encode()),
            (b"x-trial-endpoint-call-remaining", str(limit - used).encode()),
        ]

    def _count(self, key: str, scope: str, seconds: int) -> int:
        window = int(self.clock() // seconds)
        # Windows that are over are dropped, so that a long run does not gather them.
        for old in [name for name in self.counts if name[:2] == (key, scope) and name[2] < window]:
            del self.counts[old]
        self.counts[key, scope, window] = self.counts.get((key, scope, window), 0) + 1
        return self.counts[key, scope, window]
