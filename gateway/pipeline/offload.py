"""Keeps work that takes long off the event loop: large requests, and checks of schemas that need more than a moment.

Translations are pure, so one that raises TooExpensive on the loop is simply made again in a thread, where checks have a
generous budget. Threads are few, the queue before them is bounded, and no caller may fill more than a part of it.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from gateway.errors import CallerError, failure
from gateway.settings.schema import OffloadSettings
from translators.request.check_budget import TooExpensive, generous_budget, loop_budget

T = TypeVar("T")


class Offload:
    """A few threads for work that callers make expensive."""

    def __init__(self, settings: OffloadSettings) -> None:
        self._settings, self.min_bytes = settings, settings.min_bytes
        self._executor = ThreadPoolExecutor(settings.threads, thread_name_prefix="offload")
        self._waiting: Counter[str] = Counter()

    async def run(self, owner: str, size: int, function: Callable[..., T], *arguments: Any) -> T:
        """Returns what a pure function returns: on the loop if it takes a moment, else from a thread.

        owner: whose request it is. size: bytes that the function reads. Raises what the function raises, and
        CallerError (503) where too much waits already.
        """
        if size <= self.min_bytes:
            try:
                with loop_budget():
                    return function(*arguments)
            except TooExpensive:
                pass
        return await self.run_in_thread(owner, function, *arguments)

    async def run_in_thread(self, owner: str, function: Callable[..., T], *arguments: Any) -> T:
        """As `run`, always from a thread."""
        size, share = self._settings.queue_size, self._settings.queue_share
        if self._waiting.total() >= size or self._waiting[owner] >= share:
            raise CallerError(failure("busy", "Too many large requests are being read: try again"), "1")
        self._waiting[owner] += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, _generously, function, arguments)
        finally:
            self._waiting[owner] -= 1
            if not self._waiting[owner]:
                del self._waiting[owner]

    def stop(self) -> None:
        """Takes no more work, and does not wait for what is under way."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _generously(function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    with generous_budget():
        return function(*arguments)
