"""The counters of a gateway that is one process, and the protocol of counters as the limiter uses them."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.limits.stored_budgets import StoredBudgets
from gateway.store.counters import Counter, Decision, Reservation, Settlement
from gateway.store.errors import StoreUnavailable
from gateway.store.memory_counters import MemoryCounters

LOAD_RETRY_SECONDS = 5.0
"""After the budgets could not be loaded. Until they are, what is spent since the start counts alone."""


class LimiterCounters(Protocol):
    """Where the limiter reserves and settles. degraded: why limits are not held exactly; empty while they are."""

    degraded: str

    async def reserve(
        self, counters: Sequence[Counter], tokens: int, money: int
    ) -> tuple[Sequence[Counter], Decision, Reservation | None]:
        """Reserves in all counters, or in none: then there is no reservation.

        Returns the counters that decided, which may have a share of the limits alone. Raises CountersUnavailable where
        the settings refuse then.
        """
        ...

    def settle(self, settlement: Settlement) -> None:
        """Ends a reservation. Nobody waits for it."""
        ...

    async def claim(self, words: str, window: int) -> bool:
        """Returns whether this is the first of all processes to say something of a window of a budget."""
        ...

    async def stop(self) -> None:
        """Ends what is done beside requests, and frees connections."""
        ...


class ProcessCounters:
    """Counters in memory, and the budgets among them in the database as well, so that they survive a restart."""

    def __init__(self, stored: StoredBudgets, on_error: Callable[[Exception], None]) -> None:
        self.degraded = ""
        self._counters = MemoryCounters()
        self._stored, self._on_error = stored, on_error
        self._loading: asyncio.Task[None] | None = None
        self._loaded, self._retry_at = False, 0.0

    async def reserve(
        self, counters: Sequence[Counter], tokens: int, money: int
    ) -> tuple[Sequence[Counter], Decision, Reservation | None]:
        if not self._loaded and any(counter.unit == "money" for counter in counters):
            await self._load()
        decision = self._counters.reserve(counters, tokens, money)
        return counters, decision, Reservation(counters, tokens, money) if decision.admitted else None

    def settle(self, settlement: Settlement) -> None:
        self._counters.settle(settlement)
        self._stored.add(settlement.reservation.counters, settlement.money)

    async def claim(self, words: str, window: int) -> bool:
        return await self._stored.claim(words, window)

    async def stop(self) -> None:
        await self._stored.stop()

    async def _load(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loading is None and loop.time() >= self._retry_at:
            self._loading = loop.create_task(self._load_all())
        if self._loading is not None:
            await asyncio.shield(self._loading)

    async def _load_all(self) -> None:
        try:
            # Nothing was settled yet that is not pending: whoever has a budget waits for this first.
            self._counters.load(await self._stored.load())
            self._loaded, self.degraded = True, ""
        except StoreUnavailable as error:
            self.degraded = "the budgets of before the start could not be loaded yet"
            self._retry_at = asyncio.get_running_loop().time() + LOAD_RETRY_SECONDS
            self._on_error(error)
        finally:
            self._loading = None
