"""Budgets for counters that are tested alone: nothing was spent of them elsewhere (`counters.SpentBudgets`)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from gateway.store.counters import Counter


class NothingSpent:
    """A database in which nothing is."""

    def __init__(self) -> None:
        self.order = asyncio.Lock()

    async def load(self, counters: Sequence[Counter]) -> Mapping[tuple[str, int], int]:
        return {}

    async def written(self, counters: Sequence[Counter]) -> Mapping[tuple[str, int], int]:
        return {}

    async def unwritten(self, budget: tuple[str, int], written: int) -> int:
        return 0

    def confirm(self, budgets: Iterable[tuple[str, int]], began: float) -> None: ...

    def unconfirmed(self) -> Sequence[tuple[str, int]]:
        return ()
