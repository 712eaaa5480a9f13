"""The storage is opened at start, beside whatever else is done: nobody waits for a database that does not answer. From
time to time interrupted responses end, and expired rows leave.

Each process does both, at moments of its own, so that replicas do not all come at once; what one of them has done the
next one does not find any more.
"""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

from gateway.observability.access_log import Log
from gateway.state.conversation_state import ConversationState
from gateway.store.errors import StoreError

PURGE_SECONDS = 3600.0
"""Between two purges, give or take a half. Nobody sees an expired row, so there is no hurry."""


class Maintenance:
    """Two timers, from `start` to `stop`."""

    def __init__(self, memory: ConversationState, log: Log) -> None:
        self._memory, self._log = memory, log
        self._tasks: list[asyncio.Task[None]] = []
        self._random = Random()

    def start(self) -> None:
        """Needs the running loop."""
        store = self._memory.store
        for seconds, work in ((store.lease, store.fail_interrupted), (PURGE_SECONDS, store.purge)):
            self._tasks.append(asyncio.get_running_loop().create_task(self._every(seconds, work)))

    async def stop(self) -> None:
        """Ends both timers; what they are at is broken off, and found again by the next process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _every(self, seconds: float, work: Callable[[], Awaitable[object]]) -> None:
        await self._memory.open()  # whoever comes first opens it
        while True:
            await asyncio.sleep(seconds * self._random.uniform(0.5, 1.5))
            try:
                await work()
            except StoreError as error:
                self._memory.trouble(error)
            except Exception as error:  # a bug; the next time may do better, and a timer that is gone says nothing
                self._log.trouble(f"storage: upkeep failed: {type(error).__name__}")
