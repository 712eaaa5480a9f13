"""How long calls took, out of the buckets of the sums: half of them, and nineteen of twenty, took no longer.

Within a bucket calls are taken to lie evenly on a scale of powers. Its bounds are a factor of about two apart, so a
number is usually off by a few percent; hence it is given to two digits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.store.tables import LATENCY_BOUNDS, LATENCY_COLUMNS

_BUCKETS = len(LATENCY_BOUNDS) + 1

PERCENTILES = (50, 95)


def latencies(sums: Mapping[str, Any]) -> dict[str, float | None]:
    """Returns `p50_ms`, `p95_ms` of whole calls and `ttft_p50_ms`, `ttft_p95_ms` to the first token.

    sums: of LATENCY_COLUMNS. None where no call was counted: none was served, or none streamed.
    """
    counts = [int(sums[name]) for name in LATENCY_COLUMNS]
    result: dict[str, float | None] = {}
    for prefix, part in (("", counts[:_BUCKETS]), ("ttft_", counts[_BUCKETS:])):
        for percent in PERCENTILES:
            result[f"{prefix}p{percent}_ms"] = percentile(part, percent)
    return result


def percentile(counts: Sequence[int], percent: float) -> float | None:
    """Returns how many milliseconds so many of a hundred calls took at most, None without any.

    counts: of calls, by buckets. Of those in the last bucket it is known only that they took longer than its begin.
    """
    total = sum(counts)
    if not total:
        return None
    rank, before = total * percent / 100, 0
    for bucket, count in enumerate(counts):
        if count and before + count >= rank:
            return _between(bucket, (rank - before) / count)
        before += count
    return float(LATENCY_BOUNDS[-1])


def _between(bucket: int, share: float) -> float:
    """Returns the milliseconds at a share of a bucket's width, to two digits."""
    if bucket == len(LATENCY_BOUNDS):
        return float(LATENCY_BOUNDS[-1])
    upper = LATENCY_BOUNDS[bucket]
    lower = LATENCY_BOUNDS[bucket - 1] if bucket else 0
    # From 0 there are no powers, so the first bucket is even.
    ms = lower * (upper / lower) ** share if lower else upper * share
    return float(f"{max(ms, 1.0):.2g}")
