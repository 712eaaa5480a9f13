"""Counters of limits and budgets: each kind against one model of the algorithm, on a clock of the test's own.

The model has lists of what happened and adds them up anew for each decision. Requests come in any order and number,
time goes on by parts of seconds, minutes and windows of budgets, and processes die without settling.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from msgspec import Struct

from gateway.store import memory_counters
from gateway.store.counters import LEASE, WINDOW, Counter, Counters, Decision, Reservation, Settlement, Unit
from gateway.store.database import Database
from gateway.store.memory_counters import MAX_EARLIER, MemoryCounters
from gateway.store.redis_counters import RedisCounters
from gateway.store.sql_counters import SqlCounters
from support.databases import throwaway
from support.redis_server import URL, needs_program, needs_redis, redis_process
from support.spent_budgets import NothingSpent
from support.transcripts import property_of

BEGINNING = 1_800_000_000.0
"""Of the test's time: a Unix time, as Redis and PostgreSQL have it."""

BUDGET_SECONDS = 100


class Clock:
    """A clock that goes on, or, with `swings`, back and forth within a minute."""

    def __init__(self) -> None:
        self.now = BEGINNING
        self.swings = False

    def __call__(self) -> float:
        return self.now

    def begin(self, swings: bool) -> None:
        """Leaves behind whatever was before, at the beginning of a budget's window."""
        self.now = self._first = (self.now + 1000) // BUDGET_SECONDS * BUDGET_SECONDS
        self.swings = swings

    def advance(self, seconds: float) -> None:
        self.now += max(seconds, 0.0)
        if self.swings:
            self.now = min(max(self.now + min(seconds, 0.0), self._first), self._first + WINDOW - 1)


# --- the model ----------------------------------------------------------------------------------------------


class Model:
    """What the counters are to do, written down as sums over lists. lapses: reservations do so by themselves."""

    def __init__(self, clock: Clock, lapses: bool) -> None:
        self._clock, self._lapses = clock, lapses
        self._rolling: list[tuple[str, int, int]] = []
        self._money: list[tuple[str, int, int]] = []
        self._reserved: list[tuple[Counter, int, int, Any]] = []

    def spent(self, counter: Counter) -> int:
        if counter.unit == "money":
            return sum(n for id, window, n in self._money if id == counter.id and window >= counter.window)
        slot = math.floor(self._clock.now)
        return sum(n for id, since, n in self._rolling if id == counter.id and slot - WINDOW <= since <= slot + WINDOW)

    def reserved(self, counter: Counter) -> int:
        slot = math.floor(self._clock.now)
        return sum(
            n
            for other, until, n, _ in self._reserved
            if other.id == counter.id and (slot < until <= slot + LEASE + WINDOW or not self._lapses)
        )

    def reserve(self, request: Any, counters: Sequence[Counter], tokens: int, money: int) -> bool:
        slot = math.floor(self._clock.now)
        for counter in counters:
            amount = {"tokens": min(tokens, counter.limit), "money": money}.get(counter.unit, 1)
            spent, reserved = self.spent(counter), self.reserved(counter)
            if spent + reserved + amount > counter.limit and not (reserved == 0 and spent < counter.limit):
                return False
        for counter in counters:
            if counter.unit == "requests":
                self._rolling.append((counter.id, slot, 1))
            else:
                amount = {"tokens": min(tokens, counter.limit), "money": money}.get(counter.unit, 1)
                self._reserved.append((counter, slot + LEASE, amount, request))
        return True

    def settle(self, request: Any, counters: Sequence[Counter], tokens: int, money: int) -> None:
        self._reserved = [row for row in self._reserved if row[3] is not request]
        for counter in counters:
            if counter.unit == "tokens":
                self._rolling.append((counter.id, math.floor(self._clock.now), tokens))
            elif counter.unit == "money":
                self._money.append((counter.id, counter.window, money))


# --- what happens -------------------------------------------------------------------------------------------


def test_a_limit_of_no_tokens_admits_none() -> None:
    counter = Counter("k:tokens", "tokens", 0)
    assert (counter.amount(5, 0), counter.amount(0, 0)) == (1, 0)
    for tokens, admitted in ((5, False), (0, True)):
        assert counter.admits(0, 0, counter.amount(tokens, 0)) is admitted
        assert MemoryCounters().reserve((counter,), tokens, 0).admitted is admitted


def test_a_counter_in_memory_says_when_something_of_it_is_free() -> None:
    """When enough of the oldest seconds have left the last minute."""
    clock = Clock()
    counters, counter = MemoryCounters(clock), Counter("k:requests", "requests", 3)
    for seconds in (0.0, 10.0, 10.0):
        clock.advance(seconds)
        decision = counters.reserve((counter,), 0, 0)
    assert decision.states[0].wait == WINDOW + 1 - 20
    smaller = Counter("k:requests", "requests", 2)
    decision = counters.reserve((smaller,), 0, 0)
    assert (decision.admitted, decision.states[0].wait) == (False, WINDOW + 1 - 10), "two of the three have to leave"


def test_taken_in_memory_whatever_the_limits_are() -> None:
    counters = (
        Counter("k:requests", "requests", 1),
        Counter("k:tokens", "tokens", 10),
        Counter("k:parallel", "parallel", 1),
        Counter("k:budget:total", "money", 5),
    )
    clock = Clock()
    own = MemoryCounters(clock)
    assert [own.take(counters, 20, 7) for _ in range(2)][1] == [2, 20, 2, 14]
    own.settle(Settlement(Reservation(counters, 20, 7), 3, 4))
    assert own.used(counters) == [2, 13, 1, 11]
    clock.advance(WINDOW + 1)
    assert own.used(counters) == [0, 10, 1, 11]
    own.settle(Settlement(Reservation(counters, 20, 7), 3, 4))
    assert own.used(counters) == [0, 3, 0, 8], "tokens count from when they are known"


def test_only_the_newest_stored_window_of_a_budget_is_the_present_one() -> None:
    counters = MemoryCounters()
    counters.load({("k", 200): 5, ("k", 100): 7, ("k", 300): 11})
    assert counters.used([Counter("k", "money", 100, window) for window in (300, 200, 400)]) == [11, 16, 0]


def test_a_budget_in_memory_remembers_some_windows() -> None:
    counters = MemoryCounters()
    for window in range(MAX_EARLIER + 2):
        counters.load({("k", window): 1})
    assert counters.used([Counter("k", "money", 100, 0)]) == [MAX_EARLIER + 1], "the oldest is forgotten"


def test_counters_of_the_last_minute_are_removed_when_nothing_counts_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_counters, "MAX_IDLE_COUNTERS", 10)
    monkeypatch.setattr(memory_counters, "MAX_BOUND", 4)
    clock = Clock()
    counters = MemoryCounters(clock)
    busy = (Counter("busy", "parallel", 1),)
    assert counters.reserve(busy, 0, 0).admitted
    for number in range(30):
        assert counters.reserve((Counter(f"k{number}", "requests", 1),), 0, 0).admitted
        clock.advance(WINDOW)
    assert len(counters._rolling) <= 10 and len(counters._bound) <= 4
    assert not counters.reserve(busy, 0, 0).admitted


class Request(Struct, eq=False):
    """One step: time passes, a request of these subjects comes, and it may end in a later step or never.

    pause: seconds; below 0 the clock is set back, if it is one that swings. shift: windows of budgets by which the
    gateway's own clock is wrong.
    ends: after how many steps it settles, with these amounts; None if its process dies.
    """

    pause: float
    subjects: frozenset[str]
    tokens: int
    money: int
    ends: int | None
    used_tokens: int
    used_money: int
    shift: int = 0


LIMITS: Mapping[str, Sequence[tuple[Unit, int]]] = {
    "key": (("requests", 4), ("tokens", 100), ("parallel", 3), ("money", 1_000)),
    "team": (("requests", 7), ("tokens", 150), ("money", 1_500)),
    "gateway": (("parallel", 4),),
}

requests = st.builds(
    Request,
    st.sampled_from((0.0, 0.0, 0.1, 0.9, 1.0, 7.3, 30.0, 59.5, 61.0, 120.0, -1.0, -20.0, -59.0)),
    st.frozensets(st.sampled_from(sorted(LIMITS)), min_size=1),
    st.integers(0, 120),
    st.integers(0, 1_200),
    st.none() | st.integers(0, 6),
    st.integers(0, 120),
    st.integers(0, 1_200),
    st.sampled_from((0, 0, 0, 0, 1, -1, 3)),
)


def counters_of(subjects: frozenset[str], now: float, prefix: str) -> list[Counter]:
    window = int(now // BUDGET_SECONDS) * BUDGET_SECONDS
    return [
        Counter(
            f"{prefix}{subject}:{unit}", unit, limit, *((window, window + BUDGET_SECONDS) if unit == "money" else ())
        )
        for subject in sorted(subjects)
        for unit, limit in LIMITS[subject]
    ]


async def compare(
    counters: Counters | InMemory, clock: Clock, steps: Sequence[Request], lapses: bool, dies: bool
) -> None:
    """Gives the steps to the counters and to the model. dies: requests without an end are in them."""
    model, prefix = Model(clock, lapses), f"{secrets.token_hex(6)}:"
    ends: list[tuple[int, Request, Reservation]] = []
    for number, step in enumerate(steps):
        clock.advance(step.pause)
        for at, request, reservation in [end for end in ends if end[0] <= number]:
            settlement = Settlement(reservation, request.used_tokens, request.used_money)
            await counters.settle([settlement])
            model.settle(request, reservation.counters, request.used_tokens, request.used_money)
            ends.remove((at, request, reservation))
        wanted = counters_of(step.subjects, clock.now + step.shift * BUDGET_SECONDS, prefix)
        expected = model.reserve(step, wanted, step.tokens, step.money)
        decision = await counters.reserve(wanted, step.tokens, step.money)
        assert decision.admitted == expected, (number, decision)
        for counter, state in zip(wanted, decision.states, strict=True):
            assert (state.spent, state.reserved) == (model.spent(counter), model.reserved(counter)), (number, counter)
            assert 0 <= state.wait <= 2 * WINDOW + 1
        if decision.admitted and (step.ends is not None or not dies):
            reservation = Reservation(wanted, step.tokens, step.money, decision.lease, leases=decision.leases)
            ends.append((number + 1 + (step.ends or 0), step, reservation))


class InMemory:
    """Counters in memory as what `compare` takes."""

    def __init__(self, clock: Clock) -> None:
        self._counters = MemoryCounters(clock)

    async def reserve(self, counters: Sequence[Counter], tokens: int, money: int) -> Decision:
        return self._counters.reserve(counters, tokens, money)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        for settlement in settlements:
            self._counters.settle(settlement)


@given(st.lists(requests, max_size=40))
@property_of(400)
def test_memory_does_what_the_model_does(steps: list[Request]) -> None:
    clock = Clock()
    asyncio.run(compare(InMemory(clock), clock, steps, lapses=False, dies=False))


async def compare_all(counters: Counters, clock: Clock, sequences: Sequence[Sequence[Request]]) -> None:
    for number, steps in enumerate(sequences):
        clock.begin(swings=number % 3 == 2)
        await compare(counters, clock, steps, lapses=True, dies=True)


def examples(count: int) -> list[list[Request]]:
    """The same sequences of requests every time, for counters that cost too much to be set up for each."""
    sequences: list[list[Request]] = []

    @given(st.lists(requests, min_size=5, max_size=40))
    @property_of(count * 4)
    def collect(steps: list[Request]) -> None:
        sequences.append(steps)

    collect()
    return sequences[:count]


@contextlib.asynccontextmanager
async def database_counters(kind: str, folder: Path, clock: Clock) -> AsyncIterator[SqlCounters]:
    async with throwaway(kind, folder) as url:
        database = Database(url, 20.0, 4, durable=False)
        await database.open()
        counters = SqlCounters(database, clock, clock)
        try:
            yield counters
        finally:
            await counters.stop()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_databases_do_what_the_model_does(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        async with database_counters(kind, tmp_path, clock) as counters:
            await compare_all(counters, clock, examples(15))

    asyncio.run(main())


async def compare_with_redis(counters: RedisCounters, clock: Clock, count: int = 40) -> None:
    try:
        await compare_all(counters, clock, examples(count))
    finally:
        await counters.stop()


@needs_redis
def test_redis_does_what_the_model_does() -> None:
    clock = Clock()
    asyncio.run(compare_with_redis(RedisCounters(URL, NothingSpent(), clock, 20.0), clock))


def test_valkey_does_what_the_model_does() -> None:
    needs_program("valkey-server", required=False)
    with redis_process(program="valkey-server") as server:
        clock = Clock()
        asyncio.run(compare_with_redis(RedisCounters(server.url, NothingSpent(), clock, 20.0), clock))


async def jump(counters: Counters, clock: Clock, seconds: float) -> None:
    """Where the clock jumps further than a minute, what was counted is forgotten, but nobody waits for its return."""
    limits = [Counter(f"{secrets.token_hex(6)}:k:requests", "requests", 2)]
    for _ in range(2):
        assert (await counters.reserve(limits, 0, 0)).admitted
    assert not (await counters.reserve(limits, 0, 0)).admitted
    clock.now += seconds
    for _ in range(2):
        assert (await counters.reserve(limits, 0, 0)).admitted
    refused = await counters.reserve(limits, 0, 0)
    assert not refused.admitted and 0 < refused.states[0].wait <= WINDOW + 1


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_a_clock_that_jumps_by_an_hour(seconds: float, tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        for kind in ("sqlite", "postgresql"):
            async with database_counters(kind, tmp_path, clock) as counters:
                await jump(counters, clock, seconds)

    asyncio.run(main())


@needs_redis
@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_redis_whose_clock_jumps_by_an_hour(seconds: float) -> None:
    async def main() -> None:
        clock = Clock()
        counters = RedisCounters(URL, NothingSpent(), clock, 20.0)
        await jump(counters, clock, seconds)
        await counters.stop()

    asyncio.run(main())
