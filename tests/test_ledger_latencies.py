"""How long calls took, out of buckets: close to what the calls themselves say, and never outside their bucket."""

from __future__ import annotations

import random
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ledger.latencies import percentile
from gateway.store.tables import LATENCY_BOUNDS

MS = st.floats(0, 130_000, allow_nan=False)


def counted(samples: list[float]) -> list[int]:
    counts = [0] * (len(LATENCY_BOUNDS) + 1)
    for ms in samples:
        counts[bisect_left(LATENCY_BOUNDS, ms)] += 1
    return counts


@given(st.lists(MS, min_size=1, max_size=60), st.sampled_from((50.0, 95.0)))
def test_a_percentile_is_in_the_bucket_of_a_call(samples: list[float], percent: float) -> None:
    result = percentile(counted(samples), percent)
    assert result is not None
    true = sorted(samples)[max(0, -int(-len(samples) * percent // 100) - 1)]
    bucket = bisect_left(LATENCY_BOUNDS, true)
    lower = LATENCY_BOUNDS[bucket - 1] if bucket else 1.0
    upper = LATENCY_BOUNDS[min(bucket, len(LATENCY_BOUNDS) - 1)]
    assert lower * 0.94 <= result <= upper * 1.06  # two digits


@pytest.mark.parametrize(("middle", "spread"), [(800.0, 0.5), (90.0, 0.4), (6000.0, 0.8)])
def test_of_usual_calls_it_is_close(middle: float, spread: float) -> None:
    chance = random.Random(3)
    samples = sorted(middle * chance.lognormvariate(0, spread) for _ in range(4000))
    for percent in (50, 95):
        assert percentile(counted(samples), percent) == pytest.approx(samples[percent * 40 - 1], rel=0.15)


def test_nothing_is_said_of_no_calls() -> None:
    assert percentile(counted([]), 95) is None
    assert percentile(counted([200_000.0]), 50) == LATENCY_BOUNDS[-1]
