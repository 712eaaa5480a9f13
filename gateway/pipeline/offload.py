"""Keeps work that takes long off the event loop: large requests, and checks of schemas that need more than a moment.

Translations are pure, so one that raises TooExpensive on the loop is simply made again in a thread, where checks have a
generous budget. Threads are few, the queue before them is bounded and served by turns, and no caller may fill more than
a part of it. What stays on the loop is spread over its turns, so that streams flow between, however many requests come
at once.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from gateway.auth.principal import Principal
from gateway.errors import CallerError, UpstreamError, failure
from gateway.pipeline.accepted_keys import UNPROVEN, AcceptedKeys
from gateway.settings.schema import ConcurrencySettings, OffloadSettings
from gateway.upstream.concurrency import ConcurrencyLimiter
from translators.request.check_budget import TooExpensive, generous_budget, loop_budget

T = TypeVar("T")

TURN_SECONDS = 0.01
"""Work of this kind in one turn of the loop; what would come after it waits for the next turn."""

LONG_SECONDS = 0.0005
"""Work that takes less counts as none: nearly all requests take a tenth of it."""

TEXT_BYTES, VALUE_BYTES = 8, 16
"""Bytes of text that are as much work as one byte of a small request, and such bytes that a value counts for.

A kilobyte of text takes 2 microseconds, a value 0.5. Most large requests are text: files, histories, results of tools.
"""

UNPROVEN_WAITING = 16
"""Of callers with keys that Cohere has not accepted yet, so many wait together; of further ones Cohere is asked."""

QUEUE_SECONDS = 60.0
"""How long a request may wait for a thread."""


def work_of(size: int, values: int) -> int:
    """Returns how much work a body of JSON is, to compare with `offload.min_bytes`.

    size: its bytes. values: how many it has; 0 where they were not counted.
    """
    return max(size // TEXT_BYTES, values * VALUE_BYTES) if values else size


class Threads:
    """Threads for work of one kind, which callers get by turns."""

    def __init__(self, settings: OffloadSettings, name: str) -> None:
        self._executor = ThreadPoolExecutor(settings.threads, thread_name_prefix=name)
        self._limiter = ConcurrencyLimiter(
            ConcurrencySettings(settings.threads, settings.queue_size, QUEUE_SECONDS, caller_share=1.0)
        )

    async def run(self, owner: str, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        """Waits for the caller's turn, and returns what the function returns. Raises UpstreamError after too long."""
        # By turns of the callers and not of the requests: fifty large ones of somebody do not hold up the first of
        # anybody else.
        await self._limiter.acquire(owner)
        future = self._executor.submit(_generously, function, arguments)
        # The thread is free when the function has returned, even if nobody waits for it any more.
        future.add_done_callback(partial(self._release, asyncio.get_running_loop(), owner))
        try:
            return await asyncio.wrap_future(future)
        finally:
            # An error that the function raised has this frame in its traceback, and the future has the error: the two
            # would keep each other, and with them all that the request brought, until the next collection of garbage.
            del future

    def _release(self, loop: asyncio.AbstractEventLoop, owner: str, _: "Future[Any]") -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            # The limiter belongs to the loop and has no lock; a thread may not touch it.
            loop.call_soon_threadsafe(self._limiter.release, owner)

    def stop(self) -> None:
        # Not waited for: a check may take seconds.
        self._executor.shutdown(wait=False, cancel_futures=True)


class Offload:
    """A few threads for work that callers make expensive, and the turns of the loop for all other.

    Long checks have threads of their own: one may take seconds, a large request some milliseconds. Behind somebody's
    checks the large requests of others would pile up until they are refused.
    """

    def __init__(self, settings: OffloadSettings, accepted_keys: AcceptedKeys) -> None:
        self._settings, self.min_bytes = settings, settings.min_bytes
        self._accepted_keys = accepted_keys
        self._large, self._checks = Threads(settings, "large requests"), Threads(settings, "checks")
        self._under_way: Counter[str] = Counter()  # those that wait and those in threads, by whose share they are in
        self._turn = 0.0  # seconds of this turn of the loop that were spent here

    async def run(self, caller: Principal, size: int, function: Callable[..., T], *arguments: Any) -> T:
        """Returns what a pure function returns: on the loop if it takes a moment, else from a thread.

        caller: whose request it is. size: bytes that the function reads, or less by `work_of`. Raises what the function
        raises, and CallerError (503) where too much waits already.
        """
        threads = self._large
        if size <= self.min_bytes:
            # A small body that turns out to be expensive has a schema or a pattern: those are checks.
            threads = self._checks
            # A yield and no lock: each turn of the loop that passes serves the streams that wait.
            while self._turn >= TURN_SECONDS:
                await asyncio.sleep(0)
            began = time.perf_counter()
            try:
                with loop_budget():
                    return function(*arguments)
            except TooExpensive:
                pass
            finally:
                seconds = time.perf_counter() - began
                if seconds >= LONG_SECONDS:
                    if not self._turn:
                        # Once for each turn that had such work, and never while there is none: an idle loop has no
                        # timer of ours.
                        asyncio.get_running_loop().call_soon(self._next_turn)
                    self._turn += seconds
        return await self._run_in_thread(caller, threads, function, arguments)

    def _next_turn(self) -> None:
        self._turn = 0.0

    async def run_in_thread(self, caller: Principal, function: Callable[..., T], *arguments: Any) -> T:
        """Does what `run` does, always in a thread."""
        return await self._run_in_thread(caller, self._large, function, arguments)

    async def _run_in_thread(
        self, caller: Principal, threads: Threads, function: Callable[..., T], arguments: tuple[Any, ...]
    ) -> T:
        owner = await self._share(caller)
        if self._is_full(owner):
            raise _busy_error()
        self._under_way[owner] += 1
        try:
            return await threads.run(owner, function, arguments)
        except UpstreamError as error:  # the wait was too long: what runs in threads raises none
            raise _busy_error() from error
        finally:
            self._under_way[owner] -= 1
            if not self._under_way[owner]:
                del self._under_way[owner]

    async def _share(self, caller: Principal) -> str:
        """Returns whose share of the queue a caller has. Where that of made-up keys is full, Cohere is asked about this
        key: an accepted one has a share of its own. Raises UpstreamError with Cohere's refusal.
        """
        owner = self._accepted_keys.owners.share_of(caller)
        if owner == UNPROVEN and self._under_way[owner] >= min(UNPROVEN_WAITING, self._settings.queue_share):
            await self._accepted_keys.ensure(caller)
            owner = self._accepted_keys.owners.share_of(caller)
        return owner

    def _is_full(self, owner: str) -> bool:
        size, share = self._settings.queue_size, self._settings.queue_share
        return self._under_way.total() >= size or self._under_way[owner] >= share

    def stop(self) -> None:
        """Takes no more work, and does not wait for what is under way."""
        self._large.stop()
        self._checks.stop()


def _busy_error() -> CallerError:
    return CallerError(failure("busy", "Too many large requests are being read: try again"), "1")


def _generously(function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    with generous_budget():
        return function(*arguments)
