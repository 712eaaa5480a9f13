"""The windows of budgets: months of every length, leap days, clocks that jump, and what is no duration."""

from __future__ import annotations

from datetime import UTC, datetime

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.budget_windows import ENDLESS, Window, check_duration, window_at
from gateway.durations import after
from gateway.management.values import budget_duration
from support.transcripts import property_of
from translators.core.notes import Notes


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("duration", "now", "start", "end"),
    [
        ("30s", "2026-11-29 12:00:29.9", "2026-11-29 12:00:00", "2026-11-29 12:00:30"),
        ("15m", "2026-11-29 12:14:59", "2026-11-29 12:00:00", "2026-11-29 12:15:00"),
        ("1h", "2026-11-29 12:59:59.999", "2026-11-29 12:00:00", "2026-11-29 13:00:00"),
        ("1d", "2026-11-29 23:59:59.999", "2026-11-29", "2026-11-30"),
        ("1d", "2026-11-30 00:00:00", "2026-11-30", "2026-12-01"),
        ("1d", "2028-02-29 12:00:00", "2028-02-29", "2028-03-01"),
        ("7d", "2026-11-29 23:59:59", "2026-11-23", "2026-11-30"),
        ("1w", "2026-11-30 00:00:00", "2026-11-30", "2026-12-07"),
        ("1mo", "2026-01-31 23:59:59", "2026-01-01", "2026-02-01"),
        ("1mo", "2026-02-28 23:59:59.9", "2026-02-01", "2026-03-01"),
        ("1mo", "2028-02-29 23:59:59.9", "2028-02-01", "2028-03-01"),
        ("1mo", "2026-12-31 23:59:59.9", "2026-12-01", "2027-01-01"),
        ("30d", "2026-12-31 23:59:59.9", "2026-12-01", "2027-01-01"),
        ("30d", "2028-02-29 23:59:59.9", "2028-02-01", "2028-03-01"),
        ("3mo", "2026-12-31 23:59:59", "2026-10-01", "2027-01-01"),
        ("12mo", "2026-03-01 00:00:00", "2026-01-01", "2027-01-01"),
    ],
)
def test_windows_lie_on_the_calendar(duration: str, now: str, start: str, end: str) -> None:
    assert window_at(duration, at(now)) == Window(int(at(start)), int(at(end)))


@pytest.mark.parametrize("duration", [None, ""])
def test_without_a_duration_there_is_one_window(duration: str | None) -> None:
    assert window_at(duration, 1e9) == ENDLESS


@pytest.mark.parametrize(
    "text", ["d", "0d", "1.5h", "1 d", "1y", "-1d", "1D", "1d\n", "100w1", "3651w", "121mo", "9999999d"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration such as|10 years"):
        check_duration(text)


def test_what_management_takes_as_a_duration_has_a_window() -> None:
    """Both read durations by the same rule: a key whose budget has none could not be served."""
    for text in ("100000000s", "5000000m", "118mo"):
        assert budget_duration("budget_duration", text, Notes()) == text
        window = window_at(text, 1_790_000_000)
        assert window.start <= 1_790_000_000 < window.end


@pytest.mark.parametrize(
    ("now", "duration", "end"),
    [
        ("2026-11-30 12:00:00", "90s", "2026-11-30 12:01:30"),
        ("2026-11-30 12:00:00", "2w", "2026-12-14 12:00:00"),
        ("2026-11-30 12:00:01", "1mo", "2026-12-30 12:00:01"),
        ("2026-01-31 12:00:00", "1mo", "2026-02-28 12:00:00"),
        ("2028-01-31 12:00:00", "1mo", "2028-02-29 12:00:00"),
        ("2026-12-31 12:00:00", "2mo", "2027-02-28 12:00:00"),
        ("2026-11-30 12:00:00", "25mo", "2028-12-30 12:00:00"),
    ],
)
def test_what_lies_a_duration_after_a_moment(now: str, duration: str, end: str) -> None:
    """A month later is the same day, or the last one of a shorter month."""
    assert after(at(now), duration) == at(end)


durations = st.one_of(
    st.builds(lambda n, unit: f"{n}{unit}", st.integers(1, 999), st.sampled_from("smh")),
    st.builds(lambda n, unit: f"{n}{unit}", st.integers(1, 100), st.sampled_from(["d", "w"])),
    st.builds("{}mo".format, st.integers(1, 24)),
)
times = st.floats(0, 4e9)


@given(durations, times, st.floats(-4_000, 4_000))
@property_of(400)
def test_every_moment_is_in_one_window(duration: str, now: float, jump: float) -> None:
    """Windows follow each other without a gap; a clock that jumps is in the same window, or in one beside it."""
    window = window_at(duration, now)
    assert window.start <= now < window.end
    assert window_at(duration, window.start) == window and window_at(duration, window.end - 1) == window
    assert window_at(duration, window.end).start == window.end
    later = window_at(duration, max(now + jump, 0))
    assert later == window or later.start >= window.end or later.end <= window.start
