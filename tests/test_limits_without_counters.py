"""What limits go by while what they need is away: budgets not yet loaded, and shares where nothing shared answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.limits import process_counters
from gateway.limits.process_counters import ProcessCounters
from gateway.limits.shared_counters import SharedCounters
from gateway.store.counters import Counter, CountersUnavailable
from gateway.store.errors import StoreUnavailable

BUDGET = Counter("key:a:money", "money", 100)
REQUESTS = Counter("key:a:requests", "requests", 100)


class Stored:
    """A database in which 60 of the budget are spent. It answers when it may, and is away for so many loads."""

    def __init__(self, away: int = 0) -> None:
        self.loads, self.away = 0, away
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def load(self, counters: Sequence[Counter] = ()) -> dict[tuple[str, int], int]:
        self.loads += 1
        await self.may_answer.wait()
        if self.loads <= self.away:
            raise StoreUnavailable("away")
        return {(BUDGET.id, BUDGET.window): 60}

    def add(self, counters: Sequence[Counter], amount: int) -> None:
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
    """Shared counters that do not answer. There are two processes."""

    async def reserve(self, *_: Any) -> Any:
        raise CountersUnavailable("away")

    async def beat(self, *_: Any) -> Any:
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
