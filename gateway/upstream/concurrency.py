"""Places for calls to Cohere: so many at once, and a fair queue for the others.

Fair means by turns: each caller who waits has one queue, and the queues are served in rotation, so that nobody waits
behind all that somebody else has brought.
"""

import asyncio
import contextlib
from collections import deque

from gateway.errors import UpstreamError, failure
from gateway.settings.schema import ConcurrencySettings


class ConcurrencyLimiter:
    """Take a slot with `acquire` or `try_acquire`, give it back with `release`."""

    def __init__(self, settings: ConcurrencySettings) -> None:
        self.settings = settings
        self.taken = 0
        self.waiting = 0
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}

    def try_acquire(self) -> bool:
        """Takes a place if one is free and nobody waits for it."""
        if self.taken >= self.settings.max_in_flight or self.waiting:
            return False
        self.taken += 1
        return True

    async def acquire(self, owner: str) -> None:
        """Waits for a place in its turn. Raises UpstreamError when the queue is full or the wait too long."""
        if self.try_acquire():
            return
        if self.waiting >= self.settings.queue_size:
            raise busy()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(owner, deque()).append(turn)
        self.waiting += 1
        try:
            async with asyncio.timeout(self.settings.queue_timeout):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.release()  # it came in the very moment in which we gave up
            elif turn.cancelled() or not turn.done():
                self._forget(owner, turn)
            if isinstance(error, TimeoutError):
                raise busy() from None
            raise

    def release(self) -> None:
        """Gives a place back, or on to whoever is next."""
        self.taken -= 1
        self._admit()

    def configure(self, settings: ConcurrencySettings) -> None:
        """Other bounds, for those who wait already, too."""
        self.settings = settings
        self._admit()

    def _admit(self) -> None:
        while self._queues and self.taken < self.settings.max_in_flight:
            owner, queue = next(iter(self._queues.items()))
            turn = queue.popleft()
            del self._queues[owner]
            if queue:
                self._queues[owner] = queue  # to the end of the rotation
            self.waiting -= 1
            if not turn.done():
                self.taken += 1
                turn.set_result(None)

    def reject_waiters(self, error: UpstreamError) -> None:
        """Sends all away who wait."""
        queues, self._queues, self.waiting = self._queues, {}, 0
        for queue in queues.values():
            for turn in queue:
                if not turn.done():
                    turn.set_exception(error)

    def _forget(self, owner: str, turn: asyncio.Future[None]) -> None:
        queue = self._queues.get(owner)
        if queue is not None and turn in queue:
            queue.remove(turn)
            self.waiting -= 1
            if not queue:
                del self._queues[owner]


class Wakeup:
    """An event for many waiters that resets itself."""

    def __init__(self) -> None:
        self._event: asyncio.Event | None = None

    async def wait(self, seconds: float) -> None:
        """Waits for the next `notify_all`, at most so long."""
        self._event = self._event or asyncio.Event()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()

    def notify_all(self) -> None:
        """Ends all waits."""
        if self._event is not None:
            self._event.set()
            self._event = None


def busy() -> UpstreamError:
    """What a caller is told who gets no place: 503, come back in a second."""
    return UpstreamError(failure("busy", "The gateway has as many calls to Cohere under way as it may"), "1")
