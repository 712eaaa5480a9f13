"""Instructions that the pure parts and whole calls take: a guard that no other program on the machine can disturb.

    python tests/bench/instructions.py              what is counted now, beside what is recorded
    python tests/bench/instructions.py --write      records it, where a change is worth what it costs
    python tests/bench/instructions.py --callgrind  instructions of the processor, in two minutes (needs valgrind)

Counted are the interpreter's instructions, exactly: the same code takes the same number each time. They say nothing of
what libraries in C do, so `--callgrind` counts the processor's, of this project and of the bare relay's translation,
and compares their ratio, which hardly depends on the machine. `test_instructions.py` fails above LIMIT of the record.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests/, as pytest and mypy have it

from bench import calls, translation

RECORDED = Path(__file__).with_suffix(".json")
LIMIT = 1.05
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
CALLGRIND = "callgrind, project / bare relay"

WORK: dict[str, Callable[[], translation.Work]] = {
    "whole request and answer": translation.project_whole,
    "stream of 100 deltas, an event per read": lambda: translation.project_stream(translation.EVENTS),
    "stream of 100 deltas in one read": lambda: translation.project_stream(translation.ONE_READ),
}
RELAYS: tuple[Callable[[], translation.Work], ...] = (
    translation.relay_whole,
    lambda: translation.relay_stream(translation.ONE_READ),
)
PROJECTS = (translation.project_whole, lambda: translation.project_stream(translation.ONE_READ))
FEW, MANY = 10, 40


def count(work: Callable[[], object]) -> int:
    """Returns the interpreter's instructions of a call that is not the first one."""
    total = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal total
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        total += event == "opcode"
        return trace

    work()
    work()
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return total


def counted() -> dict[str, float]:
    """Returns the counts of all work, and of whole calls."""
    counts: dict[str, float] = {name: count(make()) for name, make in WORK.items()}
    return counts | {name: calls.count(name) for name in calls.GUARDED}


def recorded() -> dict[str, dict[str, float]]:
    """Returns what is recorded, by the version of Python."""
    result: dict[str, dict[str, float]] = json.loads(RECORDED.read_text())
    return result


def ratio_by_callgrind() -> float:
    """Returns the processor's instructions of this project's translation beside the bare relay's."""
    return _each("project") / _each("relay")


def _each(side: str) -> float:
    """Returns the instructions of one round. What a process does besides is the same in both runs, and drops out."""
    few, many = (_total(side, rounds) for rounds in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def _total(side: str, rounds: int) -> int:
    with tempfile.NamedTemporaryFile() as profile:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile.name}", sys.executable, __file__]
        environment = {"PYTHONHASHSEED": "0", "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            [*command, "--run", side, str(rounds)], env=environment, capture_output=True, text=True, check=True
        )
    match = re.search(r"Collected : (\d+)", done.stderr)
    assert match, done.stderr[-500:]
    return int(match[1])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Instructions of the pure parts.")
    parser.add_argument("--write", action="store_true", help="record what is counted")
    parser.add_argument("--callgrind", action="store_true", help="count the processor's, too")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.run:
        for make in PROJECTS if wanted.run[0] == "project" else RELAYS:
            work = make()
            for _ in range(int(wanted.run[1])):
                work()
        return
    now, before = counted(), recorded().get(VERSION, {})
    if wanted.callgrind:
        if shutil.which("valgrind") is None:
            sys.exit("valgrind is not installed")
        now[CALLGRIND] = round(ratio_by_callgrind(), 3)
    for name, value in now.items():
        print(f"{name:<44}{value:>10}  recorded {before.get(name, 'never')}")
    if wanted.write:
        everything = recorded() | {VERSION: before | now}
        RECORDED.write_text(json.dumps(everything, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
