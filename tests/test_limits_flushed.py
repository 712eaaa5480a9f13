"""A Redis that is flushed while several processes spend a budget: until each has told it what it spent, none goes on.

The laws: until then a process goes no further than its share of what it last saw was left, however often Redis is
flushed; once all have come by, or have had a second for it, the budget may be spent to its end, and no further.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.limits import shared_counters, stored_budgets
from gateway.store import redis_counters
from gateway.store.counters import Counter, CountersIncomplete, CountersUnavailable, Reservation, Settlement
from gateway.store.redis_cluster_counters import RedisClusterCounters
from gateway.store.redis_counters import PREFIX, RedisCounters
from support.redis_server import RedisProcess, redis_cluster, redis_process
from support.spent_budgets import NothingSpent
from support.transcripts import LONG, property_of
from test_limits_shared import Gateway, gateways, until

LIMIT, PRICE, PROCESSES = 6_000, 100, 3
BUDGET = Counter("key:k:budget:total", "money", LIMIT)
EXAMPLES = 200 if LONG else 40


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisProcess]:
    with redis_process() as server:
        yield server


@pytest.fixture(autouse=True)
def empty(redis: RedisProcess) -> None:
    redis.command("FLUSHALL")


@pytest.fixture
def no_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody comes by but with a call, nobody is given up, and the database has nothing yet."""
    monkeypatch.setattr(shared_counters, "PROBE_SECONDS", 3_600.0)
    monkeypatch.setattr(redis_counters, "JOINING_SECONDS", 3_600.0)
    monkeypatch.setattr(stored_budgets, "FLUSH_SECONDS", 3_600.0)


@contextlib.asynccontextmanager
async def three(redis: RedisProcess, folder: Path, **options: Any) -> AsyncIterator[list[Gateway]]:
    async with gateways(redis.url, folder, PROCESSES, timeout=20.0, workers=PROCESSES, **options) as running:
        yield running


async def call(gateway: Gateway, budget: Counter = BUDGET, money: int = PRICE) -> bool:
    """Spends an amount. Returns whether it was admitted."""
    if (reservation := await gateway.reserve(budget, money=money)) is not None:
        gateway.counters.settle(Settlement(reservation, 0, money))
        await gateway.settled()
    return reservation is not None


async def fill(gateway: Gateway, budget: Counter = BUDGET) -> int:
    """Spends as much as is admitted. Returns it."""
    spent = 0
    while await call(gateway, budget):
        spent += PRICE
    return spent


def left_by(spent: int) -> int:
    """What a process spends of its share that has seen so much spent: to the end, the last call included."""
    return math.ceil((LIMIT - spent) // PROCESSES / PRICE) * PRICE


def test_until_all_have_come_by_each_has_its_share(redis: RedisProcess, tmp_path: Path, no_timers: None) -> None:
    async def main() -> None:
        async with three(redis, tmp_path) as (first, second, third):
            assert await call(third)
            assert await call(first, money=3_000)
            assert await call(second)
            before = 3_000 + 2 * PRICE
            redis.command("FLUSHALL")
            assert await fill(second) == left_by(before), "of the 3,000 that Redis and the database do not know"
            redis.command("FLUSHALL")
            redis.command("FLUSHALL")
            assert not await call(second), "there is no second share"
            assert not second.reasons and not second.counters._outages._failing, "Redis answers"
            spent = before + left_by(before)
            for gateway in (third, first):
                spent += PRICE * await call(gateway)
            spent += sum([await fill(gateway) for gateway in (second, first, third)])
            assert spent == LIMIT, "all have come by"

    asyncio.run(main())


def test_a_process_that_died_is_waited_for_a_second(redis: RedisProcess, tmp_path: Path) -> None:
    async def main() -> None:
        async with three(redis, tmp_path) as (first, second, dead):
            assert await call(dead)
            await dead.counters.stop()
            assert await call(first, money=3_000) and await call(second)
            spent = 3_000 + 2 * PRICE
            redis.command("FLUSHALL")
            began = time.monotonic()
            spent += await fill(second)
            until_then = float(redis.command("HGET", PREFIX + BUDGET.id, "y").split(b"\r\n")[1])
            assert until_then <= time.time() + redis_counters.JOINING_SECONDS

            async def goes_on() -> bool:
                nonlocal spent
                spent += (paid := await fill(second))
                return bool(paid)

            if spent < LIMIT:
                await until(goes_on)
            spent += await fill(first) + await fill(second)
            assert spent == LIMIT and second.counters.processes == PROCESSES
            print(f"the budget was spent {time.monotonic() - began:.2f} s after it was lost")

    asyncio.run(main())


def test_what_is_under_way_in_an_idle_process_is_not_spent_by_others(redis: RedisProcess, tmp_path: Path) -> None:
    """It has spent nothing that the database does not have, and makes no call: it streams.

    Of another budget, which it has used last, it learns that Redis was flushed.
    """
    other = Counter("key:other:budget:total", "money", LIMIT)

    async def main() -> None:
        async with gateways(redis.url, tmp_path, 2, timeout=20.0, workers=2) as (idle, busy):
            stream = await idle.reserve(BUDGET, money=3_000)
            assert stream is not None and await call(busy)
            assert await idle.reserve(other, money=PRICE) is not None
            redis.command("FLUSHALL")

            await until(lambda: b"3000" in redis.command("HGET", PREFIX + BUDGET.id, "l"))
            spent = PRICE + await fill(busy)
            assert spent == LIMIT - 3_000
            idle.counters.settle(Settlement(stream, 0, 3_000))
            await idle.settled()
            assert not await call(busy)

    asyncio.run(main())


def test_where_the_settings_refuse_nothing_is_admitted_until_all_have_come_by(
    redis: RedisProcess, tmp_path: Path, no_timers: None
) -> None:
    async def main() -> None:
        async with three(redis, tmp_path, refuses=True) as running:
            for gateway in running:
                assert await call(gateway)
            redis.command("FLUSHALL")
            for gateway in running[:2]:
                with pytest.raises(CountersUnavailable, match="not all processes have told it"):
                    await call(gateway)
            assert await call(running[2]) and await call(running[0]) and not running[0].reasons

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["redis", "cluster"])
def test_only_what_was_lost_is_waited_for(kind: str, no_timers: None) -> None:
    """A budget that nobody had before is decided of at once, and so is a lost one by the only process."""

    async def main(servers: Sequence[RedisProcess]) -> None:
        of_kind = RedisCounters if kind == "redis" else RedisClusterCounters
        first, second = (of_kind(servers[0].url, NothingSpent(), None, 20.0) for _ in range(2))
        budget, processes = [Counter(f"key:{secrets.token_hex(6)}:budget:total", "money", LIMIT)], 2
        for one in (first, second):
            one.watch(tuple, lambda: processes, lambda counter: False)
            assert (await one.reserve(budget, 0, PRICE)).admitted
        for server in servers:
            server.command("FLUSHALL")
        for _ in range(2):
            with pytest.raises(CountersIncomplete):
                await first.reserve(budget, 0, PRICE)
        for one in (second, first):
            assert (await one.reserve(budget, 0, PRICE)).admitted
        processes = 1
        for server in servers:
            server.command("FLUSHALL")
        assert (await first.reserve(budget, 0, PRICE)).admitted
        for one in (first, second):
            await one.stop()

    with contextlib.ExitStack() as stack:
        asyncio.run(
            main([stack.enter_context(redis_process())] if kind == "redis" else stack.enter_context(redis_cluster()))
        )


def test_a_process_that_did_not_know_the_budget_may_begin_it(redis: RedisProcess, no_timers: None) -> None:
    """It was just started and finds nothing lost. The first one that knew better lets all wait for the others."""

    async def main() -> None:
        earlier = [RedisCounters(redis.url, NothingSpent(), None, 20.0) for _ in range(2)]
        new = RedisCounters(redis.url, NothingSpent(), None, 20.0)
        for one in (*earlier, new):
            one.watch(tuple, lambda: PROCESSES, lambda counter: False)
        for one in earlier:
            assert (await one.reserve([BUDGET], 0, PRICE)).admitted
        redis.command("FLUSHALL")
        assert (await new.reserve([BUDGET], 0, PRICE)).admitted
        for one in (earlier[0], new):
            with pytest.raises(CountersIncomplete):
                await one.reserve([BUDGET], 0, PRICE)
        for one in (earlier[1], earlier[0], new):
            assert (await one.reserve([BUDGET], 0, PRICE)).admitted
        for one in (*earlier, new):
            await one.stop()

    asyncio.run(main())


def test_what_redis_had_decided_before_it_was_flushed_and_says_after_is_decided_again(
    redis: RedisProcess, tmp_path: Path, no_timers: None
) -> None:
    """Its answer was on the way when the process joined the budget, so what it had reserved was not joined with."""

    async def main() -> None:
        async with gateways(redis.url, tmp_path, timeout=20.0) as (gateway,):
            assert await call(gateway)
            counters: Any = gateway.counters
            send, answered, may_be_read = counters._shared._call_reserve, asyncio.Event(), asyncio.Event()

            async def late(*arguments: Any) -> Any:
                reply = await send(*arguments)
                answered.set()
                await may_be_read.wait()
                return reply

            counters._shared._call_reserve = late
            early = asyncio.create_task(gateway.reserve(BUDGET, money=LIMIT // 2))
            await answered.wait()
            counters._shared._call_reserve = send
            redis.command("FLUSHALL")
            assert await gateway.reserve(BUDGET, money=PRICE) is not None
            may_be_read.set()
            assert await early is not None
            await gateway.settled()
            assert b"%d" % (LIMIT // 2 + PRICE) in redis.command("HGET", PREFIX + BUDGET.id, "l")
            assert await gateway.reserve(BUDGET, money=LIMIT // 2) is None and not counters.degraded

    asyncio.run(main())


def test_a_window_that_begins_meanwhile_is_waited_for_as_well(redis: RedisProcess, no_timers: None) -> None:
    """What a process knew of the hour before is enough to know that Redis has lost the budget."""

    async def main() -> None:
        hours = [Counter("key:k:budget:1h", "money", LIMIT, start, start + 3_600) for start in (3_600, 7_200)]
        first, second = (RedisCounters(redis.url, NothingSpent(), None, 20.0) for _ in range(2))
        for one in (first, second):
            one.watch(tuple, lambda: 2, lambda counter: False)
            assert (await one.reserve(hours[:1], 0, PRICE)).admitted
        redis.command("FLUSHALL")
        with pytest.raises(CountersIncomplete):
            await first.reserve(hours[1:], 0, PRICE)
        for one in (second, first):
            assert (await one.reserve(hours[1:], 0, PRICE)).admitted
            await one.stop()

    asyncio.run(main())


# --- real processes ------------------------------------------------------------------------------------------


async def serve(url: str, folder: str) -> None:
    """Makes as many calls as it is told, a line each time, and says what they spent."""
    redis_counters.JOINING_SECONDS = 3_600.0
    async with gateways(url, Path(folder), timeout=20.0, workers=PROCESSES) as (gateway,):
        while line := await asyncio.to_thread(sys.stdin.readline):
            spent = 0
            for _ in range(int(line)):
                spent += PRICE * await call(gateway)
            print(spent, flush=True)


class Child:
    """A process with the counters of a gateway."""

    def __init__(self, url: str, folder: Path) -> None:
        command = [sys.executable, __file__, url, str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def spend(self, calls: int) -> int:
        """Makes so many calls. Returns what was spent."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(b"%d\n" % calls)
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


def test_a_process_that_is_stopped_while_redis_is_flushed(redis: RedisProcess, tmp_path: Path) -> None:
    """What it has spent, and neither Redis nor the database knows, is not spent again by the others."""
    children = [Child(redis.url, tmp_path) for _ in range(PROCESSES)]
    first, second, third = children
    try:
        spent = sum(child.spend(calls) for child, calls in ((third, 1), (first, 30), (second, 1)))
        assert spent == 32 * PRICE
        first.process.send_signal(signal.SIGSTOP)
        redis.command("FLUSHALL")
        shares = [second.spend(100), third.spend(100)]
        assert max(shares) <= (LIMIT - PRICE) // PROCESSES + PRICE, "as it was when each last looked"
        first.process.send_signal(signal.SIGCONT)
        spent += sum(shares)
        deadline = time.monotonic() + 60
        while spent < LIMIT and time.monotonic() < deadline:
            spent += sum(child.spend(100) for child in children)
        # Whoever looked within the last second goes by that, and the third had not seen what the first spent since.
        unseen = 30 * PRICE
        assert LIMIT <= spent <= LIMIT + unseen // PROCESSES + PROCESSES * PRICE
    finally:
        for child in children:
            child.process.kill()
            child.process.communicate()


# --- whatever the order --------------------------------------------------------------------------------------

steps = st.tuples(st.sampled_from(("call", "call", "call", "begin", "end", "flush")), st.integers(0, PROCESSES - 1))


async def run(redis: RedisProcess, running: Sequence[Gateway], sequence: Sequence[tuple[str, int]]) -> None:
    budget = Counter(f"key:{secrets.token_hex(6)}:budget:total", "money", 30 * PRICE)
    key, spent, unseen = (budget.id, 0), 0, 0
    live: list[list[Reservation]] = [[] for _ in running]

    async def begin(number: int) -> None:
        nonlocal spent
        if (reservation := await running[number].reserve(budget, money=PRICE)) is not None:
            spent += PRICE
            live[number].append(reservation)

    async def end(number: int) -> None:
        running[number].counters.settle(Settlement(live[number].pop(), 0, PRICE))
        await running[number].settled()

    for kind, number in sequence:
        if kind in ("call", "begin"):
            await begin(number)
        if kind in ("call", "end") and live[number]:
            await end(number)
        if kind == "flush":
            redis.command("DEL", PREFIX + budget.id)
            seen = [one.counters._shares._seen.get(key) for one in running]
            unseen += sum(spent - one.spent - one.reserved for one in seen if one is not None)
    flushes = sum(kind == "flush" for kind, _ in sequence)
    allowed = budget.limit + unseen // PROCESSES + flushes * PROCESSES * PRICE
    assert spent <= allowed, sequence
    for number in range(PROCESSES):
        while live[number]:
            await end(number)
    # Each comes by, and again where another one has begun the budget meanwhile.
    for gateway in (*running, *running, *running):
        spent += PRICE * await call(gateway, budget)
    for gateway in running:
        spent += await fill(gateway, budget)
    assert budget.limit <= spent <= allowed, "and nobody is refused too early"
    state = (await running[0].counters.reserve((budget,), 0, PRICE))[1].states[0]
    assert (state.spent, state.reserved) == (spent, 0)


def test_whatever_the_order_a_flush_gives_nobody_more_than_a_share(
    redis: RedisProcess, tmp_path: Path, no_timers: None
) -> None:
    """Beyond the budget goes at most, for each flush, a part of what others were given since each last looked."""
    sequences: list[list[tuple[str, int]]] = []

    @given(st.lists(steps, min_size=10, max_size=60))
    @property_of(EXAMPLES * 2)
    def collect(sequence: list[tuple[str, int]]) -> None:
        sequences.append(sequence)

    collect()

    async def main() -> None:
        async with three(redis, tmp_path) as running:
            for sequence in sequences[:EXAMPLES]:
                await run(redis, running, sequence)

    asyncio.run(main())


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
