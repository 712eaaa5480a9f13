"""The storage's timers: interrupted responses are ended, expired rows deleted, and the bytes counted.

The storage is opened beside whatever else is done at start, so that nobody waits for a database that does not answer.
Every process runs the timers at random moments of its own, so that replicas do not all come at once; what one of them
has done the next one does not find any more.
"""

import asyncio
from collections.abc import Awaitable, Callable
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

    def __init__(self, state: ConversationState, log: Log) -> None:
        self._state, self._log = state, log
        self._tasks: list[asyncio.Task[None]] = []
        self._random = Random()

    def start(self) -> None:
        """Needs the running loop."""
        store = self._state.store
        timers = (
            (store.lease, store.fail_interrupted),
            (PURGE_SECONDS, store.purge),
            (MEASURE_SECONDS, self._state.measure),
        )
        for seconds, work in timers:
            self._tasks.append(asyncio.get_running_loop().create_task(self._repeat(seconds, work)))

    async def stop(self) -> None:
        """Ends the timers; what they are doing is broken off, and found again by the next process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, seconds: float, work: Callable[[], Awaitable[object]]) -> None:
        await self._state.open()
        while True:
            await asyncio.sleep(seconds * self._random.uniform(0.5, 1.5))
            try:
                await work()
            except StoreError as error:
                self._state.log_failure(error)
            except Exception as error:  # a bug: the next run may do better, and a timer that has ended says nothing
                self._log.message(f"storage: maintenance failed: {type(error).__name__}")
