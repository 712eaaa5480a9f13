"""What was spent of each budget, in the database: for counters that are faster and may be lost.

Written behind, a group at a time. A process that is killed loses what it has spent since the last group; the ledger
has that.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from gateway.store import sql_counters
from gateway.store.counters import Counter
from gateway.store.database import Database
from gateway.store.errors import StoreUnavailable

FLUSH_SECONDS = 0.5
"""Between two groups."""

RETRY_SECONDS = 5.0
"""After a group that could not be written. What it has is kept and added to."""


class StoredBudgets:
    """The spent amounts of a database. on_error: is called with each failure."""

    def __init__(self, database: Database, on_error: Callable[[Exception], None]) -> None:
        self._database, self._on_error = database, on_error
        self._pending: dict[tuple[str, int], int] = {}
        self._flushing: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    def add(self, counters: Sequence[Counter], amount: int) -> None:
        """Adds an amount to those of the counters that are budgets, soon."""
        if not amount:
            return
        for counter in counters:
            if counter.unit == "money":
                key = (counter.id, counter.window)
                self._pending[key] = self._pending.get(key, 0) + amount
        if self._pending and self._flushing is None:
            self._flushing = asyncio.get_running_loop().create_task(self._flush_soon())

    async def load(self, counters: Sequence[Counter] | None = None) -> Mapping[tuple[str, int], int]:
        """Returns what was spent of these budgets, by id and window; of all without. Raises StoreUnavailable.

        What this process has not written yet is in it.
        """
        ids = None if counters is None else [counter.id for counter in counters]
        async with self._lock:  # what is being written is neither pending nor there
            stored = await self._database.read(partial(sql_counters.budgets, ids=ids))
        return {key: stored.get(key, 0) + self._pending.get(key, 0) for key in {*stored, *self._pending}}

    async def claim(self, words: str, window: int) -> bool:
        """Returns whether no process that shares the database has claimed these words for a window of a budget before.

        Without the database everybody has.
        """
        try:
            return await self._database.write(partial(sql_counters.claim, words=words, window=window))
        except StoreUnavailable as error:
            self._on_error(error)
            return True

    async def put_processes(self, count: int) -> None:
        """Stores how many processes there are, for one that is started while nobody can be asked."""
        try:
            await self._database.write(partial(sql_counters.put_processes, count=count))
        except StoreUnavailable as error:
            self._on_error(error)

    async def processes(self) -> int:
        """Returns how many processes there were last, 0 if that is not known."""
        try:
            return await self._database.read(sql_counters.processes)
        except StoreUnavailable as error:
            self._on_error(error)
            return 0

    async def flush(self) -> None:
        """Writes what is pending. Raises StoreUnavailable, and nothing is lost."""
        async with self._lock:
            if not (amounts := self._pending):
                return
            self._pending = {}
            try:
                await self._database.write(partial(sql_counters.add, kind=sql_counters.MONEY, amounts=amounts))
            except BaseException:
                for key, amount in amounts.items():
                    self._pending[key] = self._pending.get(key, 0) + amount
                raise

    async def stop(self) -> None:
        """Writes what is pending, if that is possible, and closes the database."""
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)
        try:
            await self.flush()
        except StoreUnavailable as error:
            self._on_error(error)
        await self._database.close()

    async def _flush_soon(self) -> None:
        pause = FLUSH_SECONDS
        while self._pending:
            await asyncio.sleep(pause)
            try:
                await self.flush()
                pause = FLUSH_SECONDS
            except StoreUnavailable as error:
                self._on_error(error)
                pause = RETRY_SECONDS
        self._flushing = None
