"""Budgets in a Redis that is emptied: what was spent counts once, whoever knows of it, and whatever comes in between.

The laws: Redis never has more than was spent, so nobody is refused too early; and once every process has come by, it
has all of it, and all that is under way.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import hypothesis.strategies as st
import pytest
from hypothesis import given
from msgspec import Struct
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import StaticPool

from gateway.limits import stored_budgets
from gateway.limits.stored_budgets import MAX_GROUPS, StoredBudgets
from gateway.store.counters import Counter, CountersUnavailable, Reservation, Settlement
from gateway.store.errors import StoreUnavailable
from gateway.store.redis_counters import RedisCounters
from gateway.store.tables import METADATA
from support.redis_server import URL, needs_redis, redis_process
from support.spent_budgets import NothingSpent
from support.transcripts import LONG, property_of
from test_limits_counters import Clock
from test_limits_shared import gateways, until

PROCESSES = 3
EXAMPLES = 400 if LONG else 100


class Database:
    """A database in memory that answers at once. away: it does not."""

    def __init__(self) -> None:
        self._engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
        METADATA.create_all(self._engine)
        self.away = False

    async def write(self, work: Callable[[Connection], Any]) -> Any:
        if self.away:
            raise StoreUnavailable("away")
        with self._engine.begin() as connection:
            return work(connection)

    read = write

    async def close(self) -> None:
        """Does nothing: another process may still use it."""

    def dispose(self) -> None:
        self._engine.dispose()


Kind = Literal["reserve", "settle", "lose", "miss", "tell", "write", "confirm", "empty", "renew"]


class Step(Struct):
    """What happens: to one of the processes, with an amount of money.

    lose: a settlement whose answer does not come; it has arrived if the amount is even.
    """

    kind: Kind
    process: int
    amount: int


steps = st.builds(
    Step,
    st.sampled_from(
        (
            "reserve",
            "reserve",
            "settle",
            "settle",
            "settle",
            "lose",
            "miss",
            "tell",
            "write",
            "confirm",
            "empty",
            "renew",
        )
    ),
    st.integers(0, PROCESSES - 1),
    st.integers(1, 50),
)


class Process:
    """The counters of one process and what it has under way."""

    def __init__(self, database: Database, clock: Clock) -> None:
        stored: Any = database
        self.stored = StoredBudgets(stored, lambda error: None, remembers=True)
        self.counters = RedisCounters(URL, self.stored, clock, 20.0)
        self.live: list[Reservation] = []
        self.counters.watch(lambda: self.live, lambda: 1, lambda counter: False)

    async def reserve(self, budget: Counter, amount: int) -> None:
        decision = await self.counters.reserve([budget], 0, amount)
        assert decision.admitted
        self.live.append(Reservation([budget], 0, amount, decision.lease))

    async def settle(self, amount: int, answered: bool = True, arrived: bool = True) -> None:
        """As SharedCounters does it: what has not been answered is stored, and doubted."""
        reservation = self.live[0]
        async with self.stored.order:
            if arrived:
                await self.counters.settle([Settlement(reservation, 0, amount)])
            self.live.pop(0)
            self.stored.add(reservation.counters, amount)
        if not answered:
            self.counters.doubt(reservation.counters)
        if not arrived:
            await self.counters.settle([Settlement(reservation, 0, 0)])

    async def in_order(self, call: Callable[[], Any]) -> None:
        async with self.stored.order:
            await call()


class World:
    """Three processes, one Redis, one database, and what was spent in all."""

    def __init__(self) -> None:
        self.clock, self.database = Clock(), Database()
        self.processes = [Process(self.database, self.clock) for _ in range(PROCESSES)]

    async def run(self, sequence: Sequence[Step]) -> None:
        budget = Counter(f"key:{secrets.token_hex(6)}:budget:total", "money", 10**9)
        redis, key = self.processes[0].counters._redis, self.processes[0].counters._key(budget)
        spent = 0
        for number, step in enumerate(sequence):
            process = self.processes[step.process]
            match step.kind:
                case "reserve":
                    await process.reserve(budget, step.amount)
                case "settle" | "lose" if process.live:
                    await process.settle(
                        step.amount, step.kind == "settle", step.kind == "settle" or not step.amount % 2
                    )
                    spent += step.amount
                case "miss":
                    process.stored.add([budget], step.amount)
                    process.counters.miss([budget], step.amount)
                    spent += step.amount
                case "tell":
                    await process.in_order(process.counters.tell)
                case "write":
                    await process.stored.flush()
                case "confirm":
                    await process.in_order(process.counters.confirm)
                case "empty":
                    await redis.delete(key)
                case "renew":
                    await process.counters.renew(process.live, 1)
            assert int(await redis.hget(key, "t") or 0) <= spent, sequence[: number + 1]
        # Each comes by, and again where one of the others has begun the budget anew meanwhile.
        for process in self.processes * 2:
            await process.in_order(process.counters.tell)
            await process.counters.reserve([budget], 0, 0)
        state = (await self.processes[0].counters.reserve([budget], 0, 0)).states[0]
        reserved = sum(reservation.money for process in self.processes for reservation in process.live)
        assert (state.spent, state.reserved) == (spent, reserved), sequence
        for process in self.processes:
            process.live.clear()

    async def stop(self) -> None:
        for process in self.processes:
            await process.counters.stop()
            await process.stored.stop()
        self.database.dispose()


@needs_redis
def test_what_was_spent_counts_once_whatever_happens() -> None:
    sequences: list[list[Step]] = []

    @given(st.lists(steps, min_size=5, max_size=40))
    @property_of(EXAMPLES * 2)
    def collect(sequence: list[Step]) -> None:
        sequences.append(sequence)

    collect()

    async def main() -> None:
        world = World()
        for sequence in sequences[:EXAMPLES]:
            await world.run(sequence)
        await world.stop()

    asyncio.run(main())


ALL_SPEND = [Step(kind, number, 7) for kind in ("reserve", "settle") for number in range(PROCESSES)]

ORDERS: dict[str, Sequence[Step]] = {
    "emptied twice before anybody came by": [*ALL_SPEND, *[Step("empty", 0, 1)] * 2],
    "emptied again when one has come by": [*ALL_SPEND, Step("empty", 0, 1), Step("reserve", 0, 5), Step("empty", 0, 1)],
    "written between two": [*ALL_SPEND, Step("empty", 0, 1), Step("reserve", 0, 5), Step("write", 1, 1)],
    "written before, and confirmed after": [
        *ALL_SPEND,
        Step("write", 1, 1),
        Step("empty", 0, 1),
        Step("confirm", 1, 1),
        Step("empty", 0, 1),
    ],
    "lost, and emptied": [*ALL_SPEND[:3], Step("lose", 1, 8), Step("lose", 2, 9), Step("empty", 0, 1)],
    "missed, and emptied before it was told": [
        *ALL_SPEND,
        Step("miss", 0, 9),
        Step("empty", 0, 1),
        Step("reserve", 0, 1),
    ],
    "missed, and written before another one began": [
        Step("miss", 1, 9),
        Step("write", 1, 1),
        *ALL_SPEND[0:1],
        Step("reserve", 1, 5),
        Step("tell", 1, 1),
    ],
    "missed, and told after it was emptied": [*ALL_SPEND, Step("miss", 0, 9), Step("empty", 0, 1), Step("tell", 0, 1)],
}


@needs_redis
@pytest.mark.parametrize("name", ORDERS)
def test_one_order_of_things(name: str) -> None:
    async def main() -> None:
        world = World()
        await world.run(ORDERS[name])
        await world.stop()

    asyncio.run(main())


@needs_redis
def test_who_has_marked_a_budget_does_not_begin_it_with_a_sum_from_before_it_was_emptied_again() -> None:
    """Between its mark and its sum another process forgets what it has written, since Redis had it."""

    async def main() -> None:
        world = World()
        budget = Counter(f"key:{secrets.token_hex(6)}:budget:total", "money", 10**9)
        late, other, _ = world.processes
        redis, key = late.counters._redis, late.counters._key(budget)
        await other.reserve(budget, 5)
        await other.settle(7)
        await redis.delete(key)
        written = late.stored.written

        async def late_sum(counters: Sequence[Counter]) -> Any:
            late.stored.written = written  # type: ignore[method-assign]
            result = await written(counters)
            await other.stored.flush()
            await other.in_order(other.counters.confirm)
            assert not other.stored.unconfirmed()
            await redis.delete(key)
            return result

        late.stored.written = late_sum  # type: ignore[method-assign]
        assert (await late.counters.reserve([budget], 0, 0)).states[0].spent == 7
        await world.stop()

    asyncio.run(main())


@needs_redis
def test_an_emptied_redis_without_a_database_is_unavailable() -> None:
    async def main() -> None:
        world = World()
        budget = Counter(f"key:{secrets.token_hex(6)}:budget:total", "money", 10**9)
        world.database.away = True
        with pytest.raises(CountersUnavailable, match="Redis has lost budgets, and away"):
            await world.processes[0].counters.reserve([budget], 0, 1)
        world.database.away = False
        await world.stop()

    asyncio.run(main())


@pytest.mark.asyncio
async def test_groups_that_nobody_confirms_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """While Redis is away for long."""
    monkeypatch.setattr(stored_budgets, "FLUSH_SECONDS", 3_600.0)
    database = Database()
    stored = StoredBudgets(cast(Any, database), print, remembers=True)
    budget = Counter("key:k:budget:total", "money", 10**9)
    for _ in range(3 * MAX_GROUPS):
        stored.add([budget], 2)
        await stored.flush()
    key, written = (budget.id, 0), 6 * MAX_GROUPS
    assert len(stored._groups[key]) <= MAX_GROUPS
    assert await stored.unwritten(key, 0) == written and await stored.unwritten(key, written) == 0
    assert await stored.unwritten(key, written - 4) == 4, "the newest are as they were written"
    stored.confirm([key], float("inf"))
    assert await stored.unwritten(key, 0) == 0 and not stored.unconfirmed()
    await stored.stop()
    database.dispose()


# --- a Redis of the test's own, and processes that call at the same time --------------------------------------------

LIMIT, PRICE, CALLERS = 6_000, 10, 4


def test_a_redis_that_is_emptied_again_and_again_lets_nobody_spend_a_budget_twice(tmp_path: Path) -> None:
    """Beyond the budget goes at most what is under way each time, however much was spent within half a second."""
    budget = Counter("key:k:budget:total", "money", LIMIT)
    with redis_process() as redis:

        async def main() -> None:
            async with gateways(redis.url, tmp_path, PROCESSES, timeout=20.0) as running:
                spent, empties = 0, [LIMIT // 5, 2 * LIMIT // 5, 3 * LIMIT // 5, 4 * LIMIT // 5]

                async def call(gateway: Any) -> None:
                    nonlocal spent
                    while (reservation := await gateway.reserve(budget, money=PRICE)) is not None:
                        await asyncio.sleep(0)
                        spent += PRICE
                        gateway.counters.settle(Settlement(reservation, 0, PRICE))
                        if empties and spent >= empties[0]:
                            empties.pop(0)
                            redis.command("FLUSHALL")

                await asyncio.gather(*(call(gateway) for gateway in running for _ in range(CALLERS)))
                assert not empties
                for gateway in running:
                    await gateway.settled()
                under_way = PROCESSES * CALLERS * PRICE
                assert LIMIT - under_way <= spent <= LIMIT + 4 * under_way
                for gateway in running * 2:
                    await gateway.reserve(budget, money=1)
                state = (await running[0].counters.reserve((budget,), 0, 1))[1].states[0]
                assert state.spent == spent

        asyncio.run(main())


def test_a_process_that_is_idle_tells_an_emptied_redis_what_it_has_spent(tmp_path: Path) -> None:
    budget = Counter("key:k:budget:total", "money", LIMIT)
    with redis_process() as redis:

        async def main() -> None:
            async with gateways(redis.url, tmp_path, 2, timeout=20.0) as (idle, busy):
                reservation = await idle.reserve(budget, money=500)
                assert reservation is not None
                idle.counters.settle(Settlement(reservation, 0, 500))
                await idle.settled()
                redis.command("FLUSHALL")

                async def is_complete() -> bool:
                    return bool((await busy.counters.reserve((budget,), 0, LIMIT))[1].states[0].spent == 500)

                await until(is_complete)

        asyncio.run(main())


class Interrupted(NothingSpent):
    """A database during whose answer another process comes upon the same budgets."""

    def __init__(self, other: RedisCounters) -> None:
        super().__init__()
        self._other = other

    async def written(self, counters: Sequence[Counter]) -> Mapping[tuple[str, int], int]:
        entries = {counter: self._other._generations.first_entry(counter) for counter in counters}
        await self._other._try_to_join(entries)
        return {}


@needs_redis
@pytest.mark.asyncio
async def test_processes_that_begin_a_budget_together_do_not_hinder_each_other() -> None:
    budget = Counter(f"key:{secrets.token_hex(8)}:budget:total", "money", 1_000)
    other = RedisCounters(URL, NothingSpent(), None, 20.0)
    counters = RedisCounters(URL, Interrupted(other), None, 20.0)
    try:
        for one in (counters, other):
            assert (await one.reserve([budget], 0, 10)).admitted
    finally:
        await counters.stop()
        await other.stop()
