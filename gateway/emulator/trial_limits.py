"""The limits of a trial key: calls per minute and per month, and the headers that tell them.

Source: docs/cohere-api.md#rate-limits and docs/cohere-api.md#requests. Recorded: rerank answers and 429 answers carry
no trial headers.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.emulator.refusals import Refusal

PER_MINUTE = {
    "/v2/chat": 20, "/v1/chat": 20, "/v2/rerank": 10, "/v1/rerank": 10, "/v2/embed": 2_000, "/v1/embed": 2_000,
    "/v1/embed-jobs": 5, "/v1/tokenize": 100, "/v2/audio/transcriptions": 5,
}  # fmt: skip
PER_MINUTE_ELSEWHERE = 500
PER_MONTH = 1_000
MINUTE = 60
MONTH = 30 * 24 * 3_600
UNTOLD = ("/v2/rerank", "/v1/rerank")

SENTENCE = (
    "You are using a Trial key, which is limited to {limit} API calls / {span}. You can continue to use the"
    " Trial key for free or upgrade to a Production key with higher rate limits at"
    " 'https://dashboard.cohere.com/api-keys'. Contact us on 'https://discord.gg/XW44jPfYJu' or email us at"
    " support@cohere.com with any questions"
)


class Trial:
    """Counts the calls of each key."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.counts: dict[tuple[str, str, int], int] = {}

    def spend(self, key: str, path: str) -> list[tuple[bytes, bytes]]:
        """Count one call of an endpoint (its path as `ROUTES` has it); the headers for its answer, or the 429."""
        limit = PER_MINUTE.get(path, PER_MINUTE_ELSEWHERE)
        if self._count(key, "month", MONTH) > PER_MONTH:
            raise Refusal(429, SENTENCE.format(limit=PER_MONTH, span="month"))
        used = self._count(key, path, MINUTE)
        if used > limit:
            raise Refusal(429, SENTENCE.format(limit=limit, span="minute"))
        if path in UNTOLD:
            return []
        return [
            (b"x-endpoint-monthly-call-limit", str(PER_MONTH).encode()),
            (b"x-trial-endpoint-call-limit", str(limit).encode()),
            (b"x-trial-endpoint-call-remaining", str(limit - used).encode()),
        ]

    def _count(self, key: str, what: str, span: int) -> int:
        window = int(self.clock() // span)
        for old in [name for name in self.counts if name[:2] == (key, what) and name[2] < window]:
            del self.counts[old]
        self.counts[key, what, window] = self.counts.get((key, what, window), 0) + 1
        return self.counts[key, what, window]
