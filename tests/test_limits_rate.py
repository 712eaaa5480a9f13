"""Limits at five hundred calls a second over three processes: what they admit together is what the limit says.

The processes drive the limiter's counters without HTTP, since a machine that runs tests does not serve so many whole
calls. They keep to their pace if the machine lets them; how fast they were is printed, not judged.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gateway.limits.shared_counters import SharedCounters
from gateway.limits.stored_budgets import StoredBudgets
from gateway.store.counters import Counter, Counters, Settlement
from gateway.store.database import Database
from gateway.store.redis_cluster_counters import RedisClusterCounters
from gateway.store.redis_counters import RedisCounters
from gateway.store.sql_counters import SqlCounters
from support.databases import throwaway
from support.redis_server import redis_cluster, redis_process
from support.transcripts import LONG

PROCESSES, SECONDS = 3, 1.2
CALLS_A_SECOND = 500
CALLS = round(CALLS_A_SECOND * SECONDS)
LIMIT = 400
PRICE = 10

REQUESTS = Counter("key:k:requests", "requests", LIMIT)
BUDGET = Counter("team:t:budget:total", "money", LIMIT * PRICE)
PARALLEL = Counter("gateway:parallel", "parallel", 10**6)


async def drive(kind: str, url: str, begin: float) -> tuple[int, float]:
    """Returns how many of this process' calls were admitted, and the seconds that they took."""
    stored = StoredBudgets(Database(f"sqlite:///{sys.argv[4]}/budgets.db", 20.0, 2), print)
    shared: Counters
    if kind == "postgresql":
        shared = SqlCounters(Database(url, 20.0, 4, durable=False))
    else:
        shared = (RedisClusterCounters if kind == "cluster" else RedisCounters)(url, stored, None, 20.0)
    counters = SharedCounters(shared, stored, 20.0, refuses=True, on_change=print, stores_all=False)
    admitted = 0

    async def call() -> None:
        nonlocal admitted
        _, _, reservation = await counters.reserve((REQUESTS, BUDGET, PARALLEL), 0, PRICE)
        if reservation is not None:
            admitted += 1
            counters.settle(Settlement(reservation, 0, PRICE))

    await asyncio.sleep(max(begin - time.time(), 0))
    began, pace = time.monotonic(), PROCESSES / CALLS_A_SECOND
    calls = []
    for number in range(CALLS // PROCESSES):
        await asyncio.sleep(max(began + number * pace - time.monotonic(), 0))
        calls.append(asyncio.ensure_future(call()))
    await asyncio.gather(*calls)
    seconds = time.monotonic() - began
    await counters.stop()
    return admitted, seconds


@contextmanager
def store_of(kind: str, folder: Path) -> Iterator[str]:
    with ExitStack() as stack:
        if kind == "redis":
            yield stack.enter_context(redis_process()).url
        elif kind == "cluster":
            yield stack.enter_context(redis_cluster())[0].url
        else:
            runner = stack.enter_context(asyncio.Runner())
            database = throwaway("postgresql", folder)
            yield runner.run(database.__aenter__())
            runner.run(database.__aexit__(None, None, None))


def results(kind: str, url: str, folder: Path) -> Sequence[tuple[int, float]]:
    begin = str(time.time() + 2)
    command = [sys.executable, __file__, kind, url, begin, str(folder)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(PROCESSES)]
    return [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in processes]


KINDS = ("redis", "postgresql", "cluster") if LONG else ("redis",)
"""Nine processes cost as many seconds of a processor: all three kinds are for `make test-long`."""


@pytest.mark.parametrize("kind", KINDS)
def test_three_processes_at_five_hundred_calls_a_second(kind: str, tmp_path: Path) -> None:
    with store_of(kind, tmp_path) as url:
        rows = results(kind, url, tmp_path)
    admitted, seconds = sum(row[0] for row in rows), max(row[1] for row in rows)
    calls = CALLS // PROCESSES * PROCESSES
    print(f"{kind}: {calls / seconds:.0f} calls a second, {admitted} of {LIMIT} admitted")
    assert LIMIT * 0.98 <= admitted <= LIMIT or seconds > 50, "two per cent; in practice exactly"


if __name__ == "__main__":
    print(json.dumps(asyncio.run(drive(sys.argv[1], sys.argv[2], float(sys.argv[3])))))
