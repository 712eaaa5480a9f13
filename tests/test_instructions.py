"""The pure parts and whole calls take no more instructions than are recorded. `bench/instructions.py` and
`bench/calls.py` say what is counted, and the first one how to record another number where a change is worth it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest

from bench import calls, instructions


@pytest.mark.parametrize("name", instructions.WORK)
def test_translation_takes_no_more_than_is_recorded(name: str) -> None:
    compare(name, lambda: instructions.count(instructions.WORK[name]()))


@pytest.mark.parametrize("name", calls.GUARDED)
def test_a_call_through_the_gateway_takes_no_more_than_is_recorded(name: str) -> None:
    compare(name, lambda: calls.count(name))


def compare(name: str, count: Callable[[], int]) -> None:
    """Fails where a count is above what is recorded."""
    recorded = instructions.recorded().get(instructions.VERSION, {})
    if name not in recorded:
        pytest.skip(f"nothing is recorded for Python {instructions.VERSION}")
    now = count()
    assert now <= recorded[name] * instructions.LIMIT, (
        f"{now} instructions in place of {recorded[name]}: if that is worth it, "
        "record it with `python tests/bench/instructions.py --write`"
    )


@pytest.mark.skipif(
    instructions.VERSION not in instructions.recorded(), reason="nothing is recorded for this version of Python"
)
def test_the_same_work_takes_the_same_number() -> None:
    work = instructions.WORK["whole request and answer"]()
    assert instructions.count(work) == instructions.count(work) > 1_000


@pytest.mark.skipif(not os.environ.get("GATEWAY_TEST_LONG"), reason="takes two minutes: make test-long")
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_the_processor_takes_no_more_beside_the_bare_relay() -> None:
    recorded = instructions.recorded().get(instructions.VERSION, {})
    if instructions.CALLGRIND not in recorded:
        pytest.skip(f"nothing is recorded for Python {instructions.VERSION}")
    assert instructions.ratio_by_callgrind() <= recorded[instructions.CALLGRIND] * instructions.LIMIT
