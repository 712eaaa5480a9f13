"""What limits go by while what they need is away: budgets not yet loaded, and shares where nothing shared answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from gateway.limits import process_counters, shared_counters
from gateway.limits.process_counters import ProcessCounters
from gateway.limits.shared_counters import SharedCounters
from gateway.limits.stored_budgets import StoredBudgets
from gateway.store.counters import Counter, CountersUnavailable
from gateway.store.database import Database
from gateway.store.errors import StoreUnavailable
from support.databases import throwaway

BUDGET = Counter("key:a:money", "money", 100)
REQUESTS = Counter("key:a:requests", "requests", 100)


class Stored:
    """A database in which 60 of the budget are spent. It answers when it may, and is away for so many loads."""

    def __init__(self, away: int = 0, seen: int = 0) -> None:
        self.loads, self.away, self.seen = 0, away, seen
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.order = asyncio.Lock()

    async def load(self, counters: Sequence[Counter] = ()) -> dict[tuple[str, int], int]:
        self.loads += 1
        await self.may_answer.wait()
        if self.loads <= self.away:
            raise StoreUnavailable("away")
        return {(BUDGET.id, BUDGET.window): 60}

    def add(self, counters: Sequence[Counter], amount: int) -> None:
        pass

    async def put_processes(self, count: int) -> None:
        self.seen = count

    async def processes(self) -> int:
        return self.seen

    async def stop(self) -> None:
        pass


async def admits(counters: Any, money: int, counter: Counter = BUDGET) -> bool:
    return (await counters.reserve([counter], 0, money))[2] is not None


def of_a_process(stored: Stored) -> ProcessCounters:
    database: Any = stored
    return ProcessCounters(database, lambda error: None)


@pytest.mark.asyncio
async def test_budgets_are_loaded_once_and_only_where_there_is_one() -> None:
    stored = Stored()
    counters = of_a_process(stored)
    assert await admits(counters, 0, REQUESTS) and stored.loads == 0
    stored.may_answer.clear()
    waiting = [asyncio.create_task(admits(counters, 15)) for _ in range(3)]
    while not stored.loads:
        await asyncio.sleep(0)
    stored.may_answer.set()
    assert sum(await asyncio.gather(*waiting)) == 2, "60 of 100 were spent before"
    assert not await admits(counters, 15) and stored.loads == 1


@pytest.mark.asyncio
async def test_budgets_that_could_not_be_loaded_are_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Stored(away=2)
    counters = of_a_process(stored)
    assert await admits(counters, 70) and "could not be loaded yet" in counters.degraded
    assert await admits(counters, 1) and stored.loads == 1, "not with each request"
    monkeypatch.setattr(process_counters, "LOAD_RETRY_SECONDS", 0.0)
    counters._retry_at = 0.0
    assert await admits(counters, 1) and stored.loads == 2
    assert not await admits(counters, 70) and (stored.loads, counters.degraded) == (3, "")


class Away:
    """Shared counters that do not answer. There are two processes. spent: what they read before they are asked."""

    def __init__(self, spent: Mapping[str, int] | None = None) -> None:
        self.spent = spent

    def watch(self, live: object, processes: object, is_away: object) -> None:
        pass

    def server_of(self, subject: str) -> None:
        return None

    def silent(self, subjects: Any, seconds: float) -> Any:
        return subjects

    def lacks(self, counters: Sequence[Counter]) -> bool:
        return self.spent is not None

    async def prepare(self, counters: Sequence[Counter]) -> Mapping[str, int]:
        return self.spent or {}

    async def reserve(self, *_: Any) -> Any:
        raise CountersUnavailable("away")

    async def beat(self, *_: Any) -> Any:
        raise CountersUnavailable("away")

    async def reconnect(self, subject: str) -> None:
        raise CountersUnavailable("away")

    async def adopt(self, *_: Any) -> None:
        raise CountersUnavailable("away")

    async def stop(self) -> None:
        pass


@pytest.mark.asyncio
@pytest.mark.parametrize(("limit", "admitted"), [(100, [12, 8]), (61, [1]), (60, [])])
async def test_a_share_of_a_budget_is_one_of_what_is_left(limit: int, admitted: list[int]) -> None:
    shared: Any = Away()
    stored: Any = Stored()
    counters = SharedCounters(shared, stored, 5.0, False, lambda reason: None, stores_all=False)
    counters._shares.processes = 2
    amounts = []
    for money in (12, 8, 1) if limit == 100 else (1, 1):  # half of the 40 that are left, and at least one
        _, _, reservation = await counters._shares.reserve([replace(BUDGET, limit=limit)], 0, money)
        amounts += [money] if reservation is not None and reservation.local else []
    assert amounts == admitted


def shared_by(stored: Stored, workers: int, timeout: float = 5.0, spent: Mapping[str, int] | None = None) -> Any:
    """Counters that are away from the beginning, in one of so many processes."""
    shared: Any = Away(spent)
    database: Any = stored
    return SharedCounters(shared, database, timeout, False, lambda reason: None, stores_all=True, workers=workers)


async def share_of(counters: Any, counter: Counter) -> int:
    """How much of a counter is admitted, one by one."""
    count = 0
    while await admits(counters, 1, counter):
        count += 1
    return count


@pytest.mark.asyncio
@pytest.mark.parametrize(("workers", "seen", "share"), [(1, 0, 100), (4, 0, 25), (2, 5, 20), (4, 1, 25)])
async def test_a_process_that_was_just_started_knows_how_many_there_are(workers: int, seen: int, share: int) -> None:
    """By its settings, or by what others have stored that saw more."""
    counters = shared_by(Stored(seen=seen), workers)
    assert await share_of(counters, REQUESTS) == share
    await counters.stop()


@pytest.mark.asyncio
async def test_what_a_budget_has_left_is_waited_for_longer_than_the_counters() -> None:
    stored = Stored()
    counters = shared_by(stored, 2, timeout=0.001)
    stored.may_answer.clear()
    request = asyncio.create_task(share_of(counters, BUDGET))
    while not stored.loads:
        await asyncio.sleep(0)
    await asyncio.sleep(0.02)
    assert not request.done(), "a share of 100, when 60 of them are spent, is not to be had meanwhile"
    stored.may_answer.set()
    assert await request == 20
    await counters.stop()


class Silent(Away):
    """Shared counters that answer nobody, and take a moment to give a connection back. connections: in use."""

    connections = at_the_end = 0

    async def reserve(self, *_: Any) -> Any:
        self.connections += 1
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.connections -= 1

    beat = reserve

    async def stop(self) -> None:
        self.at_the_end = self.connections


@pytest.mark.asyncio
async def test_the_end_waits_for_the_connections_of_calls_that_nobody_waits_for() -> None:
    shared, stored = Silent(), Stored()
    counters = SharedCounters(cast(Any, shared), cast(Any, stored), 0.001, False, lambda _: None, stores_all=True)
    await counters.reserve([REQUESTS], 0, 0)
    assert shared.connections
    await counters.stop()
    assert not shared.at_the_end


@pytest.mark.asyncio
async def test_what_was_read_before_the_counters_were_asked_is_not_read_again() -> None:
    stored = Stored()
    counters = shared_by(stored, 2, spent={BUDGET.id: 60})
    assert await share_of(counters, BUDGET) == 20 and not stored.loads
    await counters.stop()


@pytest.mark.asyncio
async def test_a_share_that_was_a_guess_is_made_anew_once_the_database_answers() -> None:
    stored = Stored(away=1)
    counters = shared_by(stored, 4)
    assert await share_of(counters, BUDGET) == 25, "of the whole budget: nobody could be asked"
    assert stored.loads == 1, "nor is anybody, with each request"
    counters._ask_at = 0.0
    now = counters._shares._clock
    counters._shares._clock = lambda: now() + 2.0
    assert await share_of(counters, BUDGET) == 3, "a quarter of what 60, and 25 under way, have left"
    assert stored.loads == 2
    await counters.stop()


@pytest.mark.asyncio
async def test_a_process_is_missed_only_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared counters that were emptied know only of those that came by since."""
    stored = Stored()
    counters = shared_by(stored, 2)
    await counters._see_processes(1)
    assert (counters.processes, stored.seen) == (2, 0), "the other one of this machine has still to come"
    await counters._see_processes(3)
    assert (counters.processes, stored.seen) == (3, 3)
    await counters._see_processes(1)
    assert (counters.processes, stored.seen) == (3, 3)
    counters._processes_at -= shared_counters.ALIVE_SECONDS
    await counters._see_processes(1)
    assert (counters.processes, stored.seen) == (1, 1)
    await counters.stop()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_how_many_processes_there_were_is_kept(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with throwaway(kind, tmp_path) as url:
            stored = StoredBudgets(Database(url, 20.0, 2, durable=False), lambda error: None)
            assert await stored.processes() == 0
            for count in (3, 2):
                await stored.put_processes(count)
                assert await stored.processes() == count
            await stored.stop()

    asyncio.run(main())
