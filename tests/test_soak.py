"""`make soak` in short: that it runs, and that it can tell a leak."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.soak import Held, grown

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(sys.platform != "linux", reason="open files are counted in /proc")
def test_a_short_soak() -> None:
    """FM-01, FM-26 in short: mixed requests and faults, many connections, and nothing is left over."""
    command = [sys.executable, "tests/bench/soak.py", "--seconds", "6", "--callers", "8", "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 wrong, flat (seed 7)" in done.stdout


BEFORE = Held(80.0, 9, 5)
WARM = Held(100.0, 20, 5)


@pytest.mark.parametrize(
    ("after", "named"),
    [
        (replace(WARM, megabytes=120.0), "memory"),
        (replace(WARM, files=60), "open files"),
        (replace(WARM, tasks=6), "tasks"),
    ],
    ids=["memory", "files", "tasks"],
)
def test_what_has_grown_is_named(after: Held, named: str) -> None:
    assert not grown(BEFORE, WARM, WARM, 32)
    (result,) = grown(BEFORE, WARM, after, 32)
    assert result.startswith(named)
