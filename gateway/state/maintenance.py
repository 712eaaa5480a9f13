"""The storage's timers: interrupted responses are ended and get their rows in the ledger, expired rows are deleted, and
the bytes counted.

The storage is opened beside whatever else is done at start, so that nobody waits for a database that does not answer.
Every process runs the timers at random moments of its own, so that replicas do not all come at once; what one of them
has done the next one does not find any more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random

from gateway.observability.access_log import Log
from gateway.state.conversation_state import ConversationState
from gateway.store.errors import StoreError

PURGE_SECONDS = 3600.0
"""Between two purges, give or take a half. Nobody sees an expired row, so there is no hurry."""


MEASURE_SECONDS = 60.0
"""Between two looks at how much is stored, which each stored response is, too."""


class Maintenance:
    """Three timers, from `start` to `stop`."""

    def __init__(
        self, state: ConversationState, log: Log, write_rows: Callable[[Sequence[bytes]], Awaitable[bool]]
    ) -> None:
        """write_rows: writes these rows to the ledger, if they are not there. Returns whether they are safe."""
        self._state, self._log, self._write_rows = state, log, write_rows
        self._tasks: list[asyncio.Task[None]] = []
        self._random = Random()

    def start(self) -> None:
        """Needs the running loop."""
        store = self._state.store
        timers = (
            # Opening has ended the interrupted ones. Their rows need not wait for the first look.
            (store.lease, self._end_interrupted, 0.0),
            (PURGE_SECONDS, store.purge, PURGE_SECONDS),
            (MEASURE_SECONDS, self._state.measure, MEASURE_SECONDS),
        )
        for seconds, work, first in timers:
            self._tasks.append(asyncio.get_running_loop().create_task(self._repeat(seconds, work, first)))

    async def stop(self) -> None:
        """Ends the timers; what they are doing is broken off, and found again by the next process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _end_interrupted(self) -> None:
        """Ends the responses whose process is gone, and writes the rows that it has not written."""
        store = self._state.store
        await store.fail_interrupted()
        while rows := await store.take_due_ledger_rows():
            if not await self._write_rows([*rows.values()]):
                return
            await store.remove_ledger_rows(rows)

    async def _repeat(self, seconds: float, work: Callable[[], Awaitable[object]], first: float) -> None:
        """Does this work about every so many seconds. first: seconds, about, until it is done for the first time."""
        # Where it cannot be opened this returns all the same, and the runs below try it again.
        await self._state.open()
        pause = first
        while True:
            await asyncio.sleep(pause * self._random.uniform(0.5, 1.5))
            pause = seconds
            try:
                await work()
            except StoreError as error:
                self._state.log_failure(error)
            except Exception as error:  # a bug: the next run may do better, and a timer that has ended says nothing
                self._log.message(f"storage: maintenance failed: {type(error).__name__}")
