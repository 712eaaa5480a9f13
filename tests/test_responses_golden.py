"""Every golden case of the Responses API; the streams' are with chat's, in `test_golden.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import golden

CASES = golden.cases("responses")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_responses(case: Path) -> None:
    golden.compare(case, golden.responses(case), golden.CHAT_INPUTS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_case_says_why(case: Path) -> None:
    """One to three lines, and a name that reads as a sentence."""
    lines = (case / "why.md").read_text(encoding="utf-8").strip().splitlines()
    assert 1 <= len(lines) <= 3
    assert case.name == case.name.lower() and len(case.name.split("-")) >= 3


@pytest.mark.parametrize("case", golden.cases("stream"), ids=lambda case: case.name)
def test_each_stream_is_reported_in_both_projections(case: Path) -> None:
    assert (case / "chat.jsonl").exists() and (case / "responses.jsonl").exists()
