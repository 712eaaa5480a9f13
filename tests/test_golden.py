"""Every golden case: a caller's request and Cohere's, Cohere's answer and the caller's, stream and chunks.

What a case consists of, and how expectations are written anew, is in `support/golden.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support import golden

CHAT = golden.cases("chat")
STREAM = golden.cases("stream")


@pytest.mark.parametrize("case", CHAT, ids=lambda case: case.name)
def test_chat(case: Path) -> None:
    golden.compare(case, golden.chat(case), golden.CHAT_INPUTS)


@pytest.mark.parametrize("case", STREAM, ids=lambda case: case.name)
def test_stream(case: Path) -> None:
    golden.compare(case, golden.stream(case), golden.STREAM_INPUTS)


@pytest.mark.parametrize("case", [*CHAT, *STREAM], ids=lambda case: case.name)
def test_each_case_says_why(case: Path) -> None:
    """One to three lines, and a name that reads as a sentence."""
    lines = (case / "why.md").read_text(encoding="utf-8").strip().splitlines()
    assert 1 <= len(lines) <= 3
    assert case.name == case.name.lower() and len(case.name.split("-")) >= 3


def test_a_wrong_expectation_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UPDATE", raising=False)
    case = tmp_path / "a-case"
    case.mkdir()
    (case / "request.openai.json").write_text(
        json.dumps({"model": "command-a-03-2025", "messages": [{"role": "user", "content": "Hi"}]})
    )
    (case / "request.cohere.json").write_text(json.dumps({"model": "command-a-03-2025"}))
    with pytest.raises(AssertionError, match="messages"):
        golden.compare(case, golden.chat(case), golden.CHAT_INPUTS)
    (case / "notes.txt").write_text("something ignored\n")
    with pytest.raises(AssertionError, match="these files"):
        golden.compare(case, golden.chat(case), golden.CHAT_INPUTS)


def test_expectations_are_written_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPDATE", "1")
    monkeypatch.delenv("CI", raising=False)
    (tmp_path / "request.openai.json").write_text(
        json.dumps({"model": "command-a-03-2025", "user": "u", "messages": [{"role": "user", "content": "Hi"}]})
    )
    (tmp_path / "error.json").write_text("{}")
    golden.compare(tmp_path, golden.chat(tmp_path), golden.CHAT_INPUTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "notes.txt",
        "request.cohere.json",
        "request.openai.json",
    ]
    monkeypatch.delenv("UPDATE")
    golden.compare(tmp_path, golden.chat(tmp_path), golden.CHAT_INPUTS)


def test_expectations_are_never_written_in_ci() -> None:
    assert not golden.updating({"CI": "true"})
    assert golden.updating({"UPDATE": "1"})
    with pytest.raises(golden.UpdateRefused):
        golden.updating({"UPDATE": "1", "CI": "true"})
