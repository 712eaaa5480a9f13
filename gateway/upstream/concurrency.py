"""The limit on calls to Cohere under way at once, and a fair queue for the others.

Fair means in turn: each caller who waits has one queue, and the queues are served in rotation, so that nobody waits
behind all that somebody else has brought. No caller may have more than a share of the slots and of the queue, so that
some are left for everybody else.
"""

import asyncio
import contextlib
import math
from collections import deque

from gateway.errors import UpstreamError, failure
from gateway.settings.schema import ConcurrencySettings


class ConcurrencyLimiter:
    """A number of slots. Take one with `acquire` or `try_acquire`, give it back with `release`.

    in_use: slots that are taken. waiting: callers in the queues.
    """

    def __init__(self, settings: ConcurrencySettings) -> None:
        self._set_bounds(settings)
        self.in_use = 0
        self.waiting = 0
        self._used: dict[str, int] = {}
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}

    def _set_bounds(self, settings: ConcurrencySettings) -> None:
        self._settings = settings
        # Rounded up, so that a share is never none at all.
        self._slot_share = math.ceil(settings.max_in_flight * settings.caller_share)
        self._queue_share = math.ceil(settings.queue_size * settings.caller_share)

    def try_acquire(self, owner: str) -> bool:
        """Takes a slot if one is free for this caller. Returns whether it did.

        A free slot is for none of those who wait: they would have been admitted.
        """
        used = self._used.get(owner, 0)
        if self.in_use >= self._settings.max_in_flight or used >= self._slot_share:
            return False
        self.in_use += 1
        self._used[owner] = used + 1
        return True

    async def acquire(self, owner: str) -> None:
        """Waits in the owner's queue for a slot. Raises UpstreamError when the queue is full or the wait too long."""
        if self.try_acquire(owner):
            return
        # Refused at once instead of waiting: an answer that comes too late for its caller still costs a call.
        if self.waiting >= self._settings.queue_size or len(self._queues.get(owner, ())) >= self._queue_share:
            raise busy_error()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(owner, deque()).append(waiter)
        self.waiting += 1
        try:
            async with asyncio.timeout(self._settings.queue_timeout):
                await waiter
        except BaseException as error:
            # One that failed was taken out by `reject_waiters`. One that was cancelled, by the time-out or with its
            # task, is still in its queue.
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.release(owner)  # it came in the very moment in which we gave up
            elif waiter.cancelled() or not waiter.done():
                self._remove(owner, waiter)
            if isinstance(error, TimeoutError):
                raise busy_error() from None
            raise

    def release(self, owner: str) -> None:
        """Gives a slot back, or on to whoever is next."""
        self.in_use -= 1
        used = self._used.pop(owner) - 1
        if used:
            self._used[owner] = used
        if self._queues:
            self._admit()

    def configure(self, settings: ConcurrencySettings) -> None:
        """Takes over other bounds, for those who wait already, too."""
        self._set_bounds(settings)
        self._admit()

    def _admit(self) -> None:
        while self.in_use < self._settings.max_in_flight:
            owner = next((one for one in self._queues if self._used.get(one, 0) < self._slot_share), None)
            if owner is None:
                return
            queue = self._queues[owner]
            waiter = queue.popleft()
            del self._queues[owner]
            if queue:
                self._queues[owner] = queue  # to the end of the rotation
            self.waiting -= 1
            if not waiter.done():
                self.in_use += 1
                self._used[owner] = self._used.get(owner, 0) + 1
                waiter.set_result(None)

    def reject_waiters(self, error: UpstreamError) -> None:
        """Raises the error in all who wait."""
        queues, self._queues, self.waiting = self._queues, {}, 0
        for queue in queues.values():
            for waiter in queue:
                if not waiter.done():
                    waiter.set_exception(error)

    def _remove(self, owner: str, waiter: asyncio.Future[None]) -> None:
        queue = self._queues.get(owner)
        # `_admit` or `reject_waiters` may have taken it out between its cancellation and now.
        if queue is not None and waiter in queue:
            queue.remove(waiter)
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


def busy_error() -> UpstreamError:
    """Returns what a caller is told who gets no slot: 503, come back in a second."""
    return UpstreamError(failure("busy", "Too many calls to Cohere are in flight"), "1")
