"""What was spent of each budget, in the database: for counters that are faster and may be lost.

Written behind, a group at a time. A process that is killed loses what it has spent since the last group; the ledger
has that.

What a group has written is remembered with the sum that it left in the database, where the faster counters may be
emptied: sums only grow, so somebody's later sum has the group in it and an earlier one has not.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice

from msgspec import Struct

from gateway.store import sql_counters
from gateway.store.counters import Counter
from gateway.store.database import Database
from gateway.store.errors import StoreUnavailable

FLUSH_SECONDS = 0.5
"""Between two groups."""

RETRY_SECONDS = 5.0
"""After a group that could not be written. What it has is kept and added to."""


MAX_GROUPS = 64
"""Groups of a budget that are remembered. Beyond them two become one each."""

# As many as `redis_generations.MAX_JOINED`: by a full batch `confirm` tells that there are more.
MAX_UNCONFIRMED = 200
"""Budgets that are confirmed at once."""


class Group(Struct):
    """What one group has written of a budget. total: what the database has had after it. at: of the loop's clock."""

    total: int
    amount: int
    at: float


class StoredBudgets:
    """The spent amounts of a database (`counters.SpentBudgets`).

    on_error: is called with each failure. remembers: groups are remembered until they are confirmed.
    """

    def __init__(self, database: Database, on_error: Callable[[Exception], None], remembers: bool = False) -> None:
        self._database, self._on_error, self._remembers = database, on_error, remembers
        self.order = asyncio.Lock()
        self._groups: dict[tuple[str, int], list[Group]] = {}
        self._pending: dict[tuple[str, int], int] = {}
        self._flushing: asyncio.Task[None] | None = None
        # A transaction goes on when nobody waits for it any more.
        self._writes: set[asyncio.Task[None]] = set()
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

    async def written(self, counters: Sequence[Counter]) -> Mapping[tuple[str, int], int]:
        """Returns what the database has of these budgets. Raises StoreUnavailable."""
        async with self._lock:
            return await self._database.read(partial(sql_counters.budgets, ids=[counter.id for counter in counters]))

    async def unwritten(self, budget: tuple[str, int], written: int) -> int:
        """Returns what this process has spent that is not in this sum of the database."""
        async with self._lock:  # of what is being written it is not known
            groups = sum(group.amount for group in self._groups.get(budget, ()) if group.total > written)
            return self._pending.get(budget, 0) + groups

    def confirm(self, budgets: Iterable[tuple[str, int]], began: float) -> None:
        """Forgets the groups of these budgets that were written before a moment of the loop's clock."""
        for budget in budgets:
            if groups := self._groups.get(budget):
                if left := [group for group in groups if group.at >= began]:
                    self._groups[budget] = left
                else:
                    del self._groups[budget]

    def unconfirmed(self) -> Sequence[tuple[str, int]]:
        """Returns some budgets of which groups are remembered, those first that have waited longest."""
        return list(islice(self._groups, MAX_UNCONFIRMED))

    def _remember(self, amounts: Mapping[tuple[str, int], int], totals: Mapping[tuple[str, int], int]) -> None:
        now = asyncio.get_running_loop().time()
        for budget, amount in amounts.items():
            groups = self._groups.setdefault(budget, [])
            groups.append(Group(totals[budget], amount, now))
            if len(groups) > MAX_GROUPS:
                # Two that follow each other become one with the later sum. To whoever asks for a sum in between it then
                # seems unwritten: more is counted, not less.
                self._groups[budget] = [
                    Group(second.total, first.amount + second.amount, second.at)
                    for first, second in zip(groups[::2], groups[1::2], strict=False)
                ] + groups[len(groups) & ~1 :]

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
        """Writes what is pending. Raises StoreUnavailable, and nothing is lost.

        A caller who is cancelled does not end the write: the transaction would be committed all the same, and what it
        has written would be pending again.
        """
        write = asyncio.get_running_loop().create_task(self._write())
        self._writes.add(write)
        write.add_done_callback(self._end_write)
        await asyncio.shield(write)

    def _end_write(self, write: asyncio.Task[None]) -> None:
        self._writes.discard(write)
        if not write.cancelled():
            write.exception()  # retrieved, also where nobody waits any longer

    async def _write(self) -> None:
        async with self._lock:
            if not (amounts := self._pending):
                return
            self._pending = {}
            try:
                totals = await self._database.write(partial(sql_counters.spend, amounts=amounts))
                if self._remembers:
                    self._remember(amounts, totals)
            except BaseException:
                # It may have been written all the same. What counts twice is better than what never counts.
                for key, amount in amounts.items():
                    self._pending[key] = self._pending.get(key, 0) + amount
                raise

    async def stop(self) -> None:
        """Writes what is pending, if that is possible, and closes the database."""
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)
        try:
            # After the write under way, if there is one.
            await self.flush()
        except StoreUnavailable as error:
            self._on_error(error)
        await self._database.close()

    async def _flush_soon(self) -> None:
        pause = FLUSH_SECONDS
        while self._pending:
            # Before the first group as well, which has then all that is spent in this time.
            await asyncio.sleep(pause)
            try:
                await self.flush()
                pause = FLUSH_SECONDS
            except StoreUnavailable as error:
                self._on_error(error)
                pause = RETRY_SECONDS
        self._flushing = None
