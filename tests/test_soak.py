"""`make soak` in short: that it runs, and that it can tell a leak."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.soak import Held, Results, grown, ledger_troubles
from bench.soak_calls import Answer, Kind, ok

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(sys.platform != "linux", reason="open files are counted in /proc")
def test_a_short_soak() -> None:
    """FM-01, FM-26 in short: mixed requests and faults, many connections, and nothing is left over, or lost."""
    options = ["--seconds", "6", "--callers", "8", "--seed", "7", "--no-shared"]
    command = [sys.executable, "tests/bench/soak.py", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 wrong, flat (seed 7)" in done.stdout


BEFORE = Held(80.0, 9, 5, 300)
WARM = Held(100.0, 20, 5, 1_000)


@pytest.mark.parametrize(
    ("after", "named"),
    [
        (replace(WARM, megabytes=120.0), "memory"),
        (replace(WARM, files=60), "open files"),
        (replace(WARM, tasks=6), "tasks"),
        (replace(WARM, series=1_200), "series"),
    ],
    ids=["memory", "files", "tasks", "series"],
)
def test_what_has_grown_is_named(after: Held, named: str) -> None:
    assert not grown(BEFORE, WARM, WARM, 32)
    (result,) = grown(BEFORE, WARM, after, 32)
    assert result.startswith(named)


class OfRows:
    """An installation whose ledger has these rows."""

    def __init__(self, *rows: tuple[str, int | None]) -> None:
        self.database = self
        self._rows = rows

    def rows(self) -> list[tuple[str, int | None]]:
        return list(self._rows)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([], "without a row: chat (soak-1)"),
        ([("soak-1", 20_000), ("soak-1", 20_000)], "2 rows: soak-1"),
        ([("soak-1", 30_000)], "said $0.00002, its row 30000 nano-dollars"),
        ([("soak-1", None)], "said $0.00002, its row None nano-dollars"),
        ([("soak-1", 20_000)], ""),
    ],
    ids=["lost", "doubled", "another cost", "no cost", "well"],
)
def test_where_the_ledger_differs_is_named(
    rows: list[tuple[str, int | None]], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.soak.LEDGER_SECONDS", 0.0)
    results = Results()
    results.add(CHAT, "soak-1", Answer(200, b"{}", "0.00002", True), "", ())
    troubles = ledger_troubles(OfRows(*rows), results)  # type: ignore[arg-type]
    assert (named in troubles[0]) if named else not troubles


CHAT = Kind("chat", 1, lambda chance: b"", ok)


@pytest.mark.parametrize(
    ("answer", "excuses", "wrong", "excused"),
    [
        (Answer(200, b"{}", "", True), (), 0, 0),
        (Answer(503, b"{}", "", True), (), 1, 0),
        (Answer(503, b"{}", "", True), ("worker killed",), 0, 1),
        (Answer(200, b"{", "", False), ("worker killed",), 0, 0),
        (Answer(200, b"", "", True), ("worker killed",), 1, 0),
        (None, (), 1, 0),
    ],
    ids=["success", "failure", "excused", "cut", "wrong success", "nothing"],
)
def test_only_failures_are_excused(answer: Answer | None, excuses: tuple[str, ...], wrong: int, excused: int) -> None:
    results = Results()
    results.add(CHAT, "soak-1", answer, "silence", excuses)
    assert (len(results.wrong), results.excused.total()) == (wrong, excused)
