"""The share of one process of limits that it cannot ask others about, and how it is handed over when it can.

The laws: all shares together are the limit, whoever took what before; a share is never larger than that because the
shared counters answered in between; and what was admitted here counts there, once, in the second in which it was.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.limits.local_shares import FORGOTTEN, LocalShares
from gateway.store.counters import (
    Counter,
    Counters,
    CounterState,
    CountersUnavailable,
    Decision,
    Past,
    Reservation,
    Settlement,
)
from gateway.store.redis_cluster_counters import RedisClusterCounters
from gateway.store.redis_counters import RedisCounters
from support.redis_server import URL, RedisProcess, needs_redis, redis_cluster, redis_process
from support.spent_budgets import NothingSpent
from support.transcripts import LONG
from test_limits_counters import Clock, database_counters
from test_limits_shared import gateways, until

REQUESTS = Counter("key:k:requests", "requests", 90)
TOKENS = Counter("key:k:tokens", "tokens", 1_000)
PARALLEL = Counter("key:k:parallel", "parallel", 9)
BUDGET = Counter("key:k:budget:total", "money", 900)


class Shares:
    """The shares of three processes on one clock. The database has `stored` of each budget."""

    def __init__(self, stored: int = 0) -> None:
        self.now = 1_000.5

        async def amount(counter: Counter, is_unseen: bool) -> int:
            return stored

        self.all = [LocalShares(amount, lambda: self.now) for _ in range(3)]
        for one in self.all:
            one.processes = 3

    def admitted(self, counter: Counter, money: int = 0, among: Sequence[int] = (0, 1, 2)) -> list[int]:
        """Returns how many each of these processes admits until it refuses."""

        async def fill(shares: LocalShares) -> int:
            count = 0
            while (await shares.reserve((counter,), 0, money))[2] is not None:
                count += 1
            return count

        return [asyncio.run(fill(self.all[number])) for number in among]

    def share(self, counter: Counter, counts: Sequence[int], money: int = 0) -> None:
        """Lets each process take so many while all of them can be first."""
        for number, count in enumerate(counts):
            for _ in range(count):
                self.all[number].see((counter,), Decision(True, [CounterState(0, 0)]), 0, money)
        total = sum(counts) * (money or 1)
        state = CounterState(total, 0) if counter.unit == "requests" else CounterState(0, total)
        for one in self.all:
            one.see((counter,), Decision(False, [state]), 0, money)


@pytest.mark.parametrize("counts", [(0, 0, 0), (10, 10, 10), (60, 0, 0), (90, 0, 0)])
def test_all_shares_together_are_the_limit(counts: Sequence[int]) -> None:
    shares = Shares()
    shares.share(REQUESTS, counts)
    assert sum(counts) + sum(shares.admitted(REQUESTS)) == REQUESTS.limit


def test_what_is_under_way_is_not_left() -> None:
    shares = Shares()
    shares.share(PARALLEL, (3, 0, 0))
    shares.share(BUDGET, (3, 0, 0), 100)
    assert shares.admitted(PARALLEL) == [2, 2, 2]
    assert shares.admitted(BUDGET, 100) == [2, 2, 2]


def test_an_answer_in_between_gives_nobody_a_second_share() -> None:
    """What was admitted here is not in that answer."""
    shares = Shares()
    shares.share(REQUESTS, (0, 0, 0))
    assert shares.admitted(REQUESTS, among=[0]) == [30]
    shares.all[0].see((REQUESTS,), Decision(False, [CounterState(0, 0)]), 0, 0)
    assert shares.admitted(REQUESTS, among=[0]) == [20], "a third of the 60 that are left"


def test_shares_are_even_after_a_while_and_never_more_than_the_limit() -> None:
    shares = Shares()
    shares.share(REQUESTS, (90, 0, 0))
    shares.now += 30
    assert shares.admitted(REQUESTS) == [0, 0, 0]
    shares.now += FORGOTTEN - 29
    assert shares.admitted(REQUESTS) == [30, 0, 0], "the second and third might have seen late what the first took"
    shares.now += FORGOTTEN
    assert shares.admitted(REQUESTS) == [30, 30, 30]


def test_a_share_becomes_another_one_when_there_are_more_processes() -> None:
    shares = Shares()
    shares.all[0].processes = 1
    assert asyncio.run(shares.all[0].reserve((REQUESTS,), 0, 0))[2] is not None
    shares.all[0].processes = 3
    assert shares.admitted(REQUESTS, among=[0]) == [28], "a third of the 89 that are left, of which one is taken"


@pytest.mark.parametrize(("counter", "stored", "admitted"), [(REQUESTS, 0, 30), (PARALLEL, 0, 3), (BUDGET, 900, 0)])
@pytest.mark.parametrize("seconds", [0, 2 * FORGOTTEN])
def test_a_process_that_has_not_served_a_key_of_late_has_its_share_of_all(
    counter: Counter, stored: int, admitted: int, seconds: int
) -> None:
    """It does not know that another one has taken everything; of a budget the database does."""
    shares = Shares(stored=stored)
    if seconds:
        shares.all[1].see((counter,), Decision(False, [CounterState(0, 0)]), 0, 0)
        shares.now += seconds
    for _ in range(counter.limit // 100 or counter.limit):
        shares.all[0].see((counter,), Decision(True, [CounterState(0, 0)]), 0, 100)
    assert shares.admitted(counter, 100, among=[1]) == [admitted]


def test_a_share_of_less_than_one_is_one() -> None:
    shares = Shares()
    few = Counter("key:k:requests", "requests", 2)
    assert shares.admitted(few) == [1, 1, 1], "one request for each process"


def test_of_a_budget_that_was_not_used_of_late_the_database_knows_more() -> None:
    shares = Shares(stored=600)
    shares.share(BUDGET, (0, 0, 0))
    shares.now += 10
    shares.all[0].see((BUDGET,), Decision(False, [CounterState(600, 0)]), 0, 100)
    assert shares.admitted(BUDGET, 100) == [1, 1, 1]


# --- handing over -------------------------------------------------------------------------------------------


async def adopt(counters: Counters, clock: Clock) -> None:
    """What was admitted elsewhere counts, with its age, and is settled as what was admitted here."""
    clock.begin(swings=False)
    limits = (REQUESTS, TOKENS, PARALLEL, BUDGET)
    first = await counters.reserve(limits, 0, 0)
    assert first.admitted
    await counters.settle([Settlement(Reservation(limits, 0, 0, first.lease, leases=first.leases), 0, 0)])
    reservation = Reservation(limits, 100, 300, local=True)
    await counters.adopt([(reservation, 50)], [Past(REQUESTS, 7, 50), Past(TOKENS, 500, 50)])
    reservation.local = False
    assert [(one.spent, one.reserved) for one in (await counters.reserve(limits, 0, 0)).states] == [
        (10, 0),
        (500, 100),
        (0, 2),
        (0, 300),
    ]
    await counters.settle([Settlement(reservation, 40, 250)])
    clock.advance(11.5)
    states = (await counters.reserve(limits, 0, 0)).states
    assert [one.spent for one in states] == [3, 40, 0, 250], "of 61 seconds ago nothing counts"
    assert states[1].reserved == states[3].reserved == 0
    await counters.stop()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_databases_adopt(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        async with database_counters(kind, tmp_path, clock) as counters:
            await adopt(counters, clock)

    asyncio.run(main())


def test_redis_adopts() -> None:
    with redis_process() as server:
        clock = Clock()
        asyncio.run(adopt(RedisCounters(server.url, NothingSpent(), clock, 20.0), clock))


@pytest.mark.skipif(not LONG, reason="three more processes, for one more node")
def test_a_cluster_adopts() -> None:
    with redis_cluster() as servers:
        clock = Clock()
        asyncio.run(adopt(RedisClusterCounters(servers[0].url, NothingSpent(), clock, 20.0), clock))


class Lost:
    """What a process has of shared counters that it cannot reach."""

    def lacks(self, counters: Sequence[Counter]) -> bool:
        return False

    def silent(self, subjects: Collection[str], seconds: float) -> Collection[str]:
        return subjects

    def compare_again(self, subject: str) -> None: ...

    def miss(self, counters: Sequence[Counter], money: int) -> None: ...

    def doubt(self, counters: Sequence[Counter]) -> None: ...

    def __getattr__(self, name: str) -> Any:
        async def away(*arguments: Any) -> None:
            raise CountersUnavailable("away")

        return away


def test_a_process_that_alone_has_lost_redis_admits_its_share_beside_the_limit(tmp_path: Path) -> None:
    with redis_process() as redis:

        async def main() -> None:
            async with gateways(redis.url, tmp_path, 3, timeout=20.0, workers=3) as running:

                async def fill(gateway: Any) -> int:
                    count = 0
                    while await gateway.reserve(REQUESTS) is not None:
                        count += 1
                    return count

                shared: Any = running[0].counters
                redis_of_the_first, shared._shared = shared._shared, Lost()
                alone, others = await fill(running[0]), sum([await fill(gateway) for gateway in running[1:]])
                await redis_of_the_first.stop()
                assert (alone, others) == (REQUESTS.limit // 3, REQUESTS.limit)

        asyncio.run(main())


# --- a Redis that is frozen ---------------------------------------------------------------------------------


def frozen(redis: RedisProcess, main: Callable[[], Any]) -> None:
    try:
        asyncio.run(main())
    finally:
        redis.signal(signal.SIGCONT)


def test_what_redis_begins_too_late_does_nothing() -> None:
    """It was frozen, and the caller has gone. Neither is a request counted nor is anything reserved."""
    limits = (REQUESTS, BUDGET)
    with redis_process() as redis:

        async def main() -> None:
            counters = RedisCounters(redis.url, NothingSpent(), None, 20.0)
            await counters.beat("process", 15)
            await counters.reserve((REQUESTS, BUDGET), 0, 0)
            redis.signal(signal.SIGSTOP)
            calls = [asyncio.create_task(counters.reserve(limits, 0, 300, 0.05)) for _ in range(5)]
            await asyncio.wait(calls, timeout=1.0)
            redis.signal(signal.SIGCONT)
            for error in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(error, CountersUnavailable) and "too late" in str(error)
            states = (await counters.reserve(limits, 0, 0, 20.0)).states
            assert [(one.spent, one.reserved) for one in states] == [(2, 0), (0, 0)]
            await counters.stop()

        frozen(redis, main)


def test_three_processes_over_a_frozen_redis_admit_what_the_limits_say(tmp_path: Path) -> None:
    """Requests are under way when it freezes, each process admits what it may, and all is settled afterwards."""
    limits = (REQUESTS, BUDGET)
    with redis_process() as redis:

        async def main() -> None:
            async with gateways(redis.url, tmp_path, 3) as running:
                admitted: list[tuple[Any, Reservation]] = []

                async def call(gateway: Any) -> bool:
                    if (reservation := await gateway.reserve(*limits, money=10)) is not None:
                        admitted.append((gateway, reservation))
                    return reservation is not None

                for gateway, count in zip((*running, *running), (19, 9, 0, 1, 1, 1), strict=True):
                    for _ in range(count):
                        assert await call(gateway)
                await until(lambda: all(gateway.counters.processes == 3 for gateway in running))
                redis.signal(signal.SIGSTOP)
                # As many at once as there are callers: the first of them wait for an answer.
                await asyncio.gather(*(call(gateway) for gateway in running for _ in range(50)))
                while any([await call(gateway) for gateway in running]):
                    pass
                assert len(admitted) == 90, "31, and 20, 20 and 19: a third of what each saw left"
                for gateway, reservation in admitted[::2]:
                    gateway.counters.settle(Settlement(reservation, 0, 10))
                redis.signal(signal.SIGCONT)
                await until(lambda: not any(gateway.counters.degraded for gateway in running))
                for gateway, reservation in admitted[1::2]:
                    gateway.counters.settle(Settlement(reservation, 0, 10))
                for gateway in running:
                    await gateway.settled()
                await until(lambda: not any(gateway.counters._behind for gateway in running))
                assert not any([await call(gateway) for gateway in running])
                states = (await running[0].counters.reserve(limits, 0, 10))[1].states
                assert [(one.spent, one.reserved) for one in states] == [(90, 0), (900, 0)]

        frozen(redis, main)


def test_three_processes_that_find_redis_frozen_share_what_the_database_says_is_left(tmp_path: Path) -> None:
    """None of them has ever seen the budget, nor the others, and the database takes longer than a request may wait."""
    with redis_process() as redis:

        async def main() -> None:
            async with gateways(redis.url, tmp_path, 3, workers=3, timeout=0.001) as running:
                running[0].stored.add((BUDGET,), 300)
                await running[0].stored.flush()
                redis.signal(signal.SIGSTOP)

                async def fill(gateway: Any) -> int:
                    count = 0
                    while await gateway.reserve(BUDGET, money=10) is not None:
                        count += 1
                    return count

                assert await asyncio.gather(*map(fill, running)) == [20, 20, 20]

        frozen(redis, main)


@needs_redis
def test_a_reservation_that_is_renewed_in_an_emptied_redis_is_freed_once() -> None:
    """Redis has lost the budget, and the reservation is there again before the budget is."""

    async def main() -> None:
        counters = RedisCounters(URL, NothingSpent(), None, 20.0)
        limits = [Counter(f"key:{id(object())}:budget:total", "money", 900)]
        decision = await counters.reserve(limits, 0, 300)
        reservation = Reservation(limits, 0, 300, decision.lease)
        counters.watch(lambda: [reservation], lambda: 1, lambda counter: False)
        await counters._redis.delete(counters._key(limits[0]))
        await counters.renew([reservation], 20)
        assert (await counters.reserve(limits, 0, 0)).states[0].reserved == 300
        await counters.settle([Settlement(reservation, 0, 100)])
        assert (await counters.reserve(limits, 0, 0)).states[0] == CounterState(100, 0)
        await counters.stop()

    asyncio.run(main())


def test_a_window_that_ends_over_three_processes_keeps_what_was_reserved_in_it(tmp_path: Path) -> None:
    """One process turns to the next window first, one has a clock that is an hour late."""
    first, second = (Counter("key:k:budget:1h", "money", 900, start, start + 3_600) for start in (3_600, 7_200))
    with redis_process() as redis:

        async def main() -> None:
            async with gateways(redis.url, tmp_path, 3, timeout=20.0) as (early, late, behind):
                reservation = await late.reserve(first, money=500)
                assert reservation is not None
                assert await behind.reserve(first, money=401) is None
                turned = await early.reserve(second, money=400)
                assert turned is not None, "what is under way counts in both windows until it is settled"
                assert await early.reserve(second, money=1) is None
                late.counters.settle(Settlement(reservation, 0, 600))
                await late.settled()
                early.counters.settle(Settlement(turned, 0, 700))
                await early.settled()
                assert await behind.reserve(first, money=1) is None, "1,300 in both hours"
                _, decision, _ = await early.counters.reserve((second,), 0, 200)
                assert decision.admitted and decision.states[0] == CounterState(700, 200), "600 are the hour's before"

        asyncio.run(main())
