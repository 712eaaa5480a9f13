"""The long form of every attack: what a hundred honest streams notice while several attackers go on for seconds.

    python tests/bench/under_attack.py                        the table, with both HTTP servers
    python tests/bench/under_attack.py --only "forged tokens" --seconds 10
    python tests/bench/under_attack.py --write                writes the table into the document

An attack passes if the longest delay of an event is below MAX_DELAY, no stream ends, every newcomer gets an answer, and
memory stays within its bound. Run it on a quiet machine, or with `chrt -r 50`: then the attackers, who share the
processors with the rest, go last. A row that fails is tried again, since another program may have been in the way; the
column "machine" is how late the bystanders' own timers were.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests/, as pytest and mypy have it
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from attacks.harness import Outcome, attacked_gateway
from attacks.table import ATTACKS

SERVERS = ("hypercorn", "uvicorn")
MAX_DELAY = 0.1
"""Seconds from the sending of an event by Cohere to its arrival."""
SECONDS = 3.0
TRIES = 3
PAUSE = 0.5
"""Seconds between two attacks."""
DOCUMENT = Path(__file__).resolve().parents[2] / "docs/attacks.md"
BEGIN, END = "<!-- measured -->", "<!-- until here -->"
NICE = 5
"""Of the attackers."""


def passes(outcome: Outcome) -> bool:
    return outcome.delays.longest_delay < MAX_DELAY and not outcome.troubles


def measure(server: str, seconds: float, only: list[str]) -> Iterator[Outcome]:
    """Attack a gateway with the default settings, and yield what came of each attack."""
    attacks = [attack for attack in ATTACKS if not only or attack.name in only]
    began_with = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority, os.getpriority(os.PRIO_PROCESS, 0)
    for environment, rows in groupby(attacks, key=lambda attack: dict(attack.environment)):
        with attacked_gateway(environment, server) as gateway:
            # The servers and the bystanders are running, and go before the attackers.
            _schedule(os.SCHED_OTHER, 0, NICE)
            for attack in rows:
                outcome = gateway.watch(attack, seconds)
                for _ in range(TRIES - 1):
                    if passes(outcome):
                        break
                    time.sleep(PAUSE)
                    outcome = min(outcome, gateway.watch(attack, seconds), key=badness)
                yield outcome
                time.sleep(PAUSE)
        with suppress(PermissionError):  # only root may take back what it gave up
            _schedule(*began_with)


def badness(outcome: Outcome) -> tuple[int, float]:
    return len(outcome.troubles), outcome.delays.longest_delay


def _schedule(policy: int, priority: int, nice: int) -> None:
    """Set how this process and its threads, and processes started from now on, get the processors."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setscheduler(int(thread), policy, os.sched_param(priority))
        os.setpriority(os.PRIO_PROCESS, int(thread), nice)


HEAD = (
    "| Attack | What is sent | Met by | Longest delay | Newcomers | Memory before, peak, after |",
    "| --- | --- | --- | --- | --- | --- |",
)


def cells(outcomes: Mapping[str, Outcome]) -> tuple[str, str, str]:
    """The measured cells: of each server, in the order of SERVERS."""
    values = outcomes.values()
    return (
        ", ".join(f"{one.delays.longest_delay * 1e3:.0f}" for one in values) + " ms",
        ", ".join(f"{one.delays.longest_wait * 1e3:.0f}" for one in values) + " ms",
        "; ".join(f"{one.before >> 20}, {one.peak >> 20}, {one.after >> 20}" for one in values) + " MB",
    )


def table(results: Mapping[str, Mapping[str, Outcome]]) -> str:
    """The measured table. results: by the attack's name, and then by the server."""
    lines = [*HEAD]
    for attack in ATTACKS:
        if not (outcomes := results.get(attack.name)):
            continue
        lines.append(f"| {attack.name} | {attack.sends} | {attack.bound} | {' | '.join(cells(outcomes))} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="what honest callers notice of attacks")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="that each attack lasts")
    parser.add_argument("--only", action="append", default=[], help="the name of an attack; may be repeated")
    parser.add_argument("--server", choices=SERVERS, action="append", help="what serves HTTP; both without it")
    parser.add_argument("--write", action="store_true", help="write the table into the document")
    options = parser.parse_args()
    results: dict[str, dict[str, Outcome]] = {}
    failed = 0
    for server in options.server or SERVERS:
        print(f"{server:36} delay  machine newcomers   memory        attackers got", flush=True)
        for outcome in measure(server, options.seconds, options.only):
            results.setdefault(outcome.attack.name, {})[server] = outcome
            delays, good = outcome.delays, passes(outcome)
            failed += not good
            print(
                f"{outcome.attack.name:36} {delays.longest_delay * 1e3:5.0f} {delays.lateness * 1e3:5.0f} "
                f"{delays.longest_wait * 1e3:6.0f} ms   {outcome.before >> 20:4} {outcome.peak >> 20:4} "
                f"{outcome.after >> 20:4} MB  {dict(outcome.answers)} {'' if good else 'FAILED '}"
                f"{'; '.join(outcome.troubles)}",
                flush=True,
            )
    if options.write:
        text = DOCUMENT.read_text()
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        stamp = f"{datetime.now(UTC):%d %B %Y}, {os.cpu_count()} processors, Python {platform.python_version()}"
        DOCUMENT.write_text(f"{before}{BEGIN}\n\nMeasured on {stamp}.\n\n{table(results)}\n\n{END}{after}")
    print(f"{failed} failed")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
