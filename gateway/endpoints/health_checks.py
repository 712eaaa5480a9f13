"""Looks at the database and Redis that are taken at most once in a while, however often somebody asks for them."""

import asyncio
import time
from collections.abc import Awaitable, Callable

AGE_SECONDS = 2.0
"""A look answers for all who ask within this time after it."""

LOOK_SECONDS = 2.0
"""What takes longer is away."""


class Cached:
    """A check whose last result is kept for a moment; those who ask at once share one look.

    look: returns what is wrong, or an empty text.
    """

    def __init__(self, look: Callable[[], Awaitable[str]]) -> None:
        self._look = look
        # So long ago that the first who asks gets a look, even where the clock has only just begun at 0.
        self._result, self._at = "", -AGE_SECONDS
        self._task: asyncio.Task[str] | None = None

    async def __call__(self) -> str:
        if time.monotonic() - self._at < AGE_SECONDS:
            return self._result
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._look_now())
        # Shielded: one who stops waiting must not end the look for all others who wait for it.
        return await asyncio.shield(self._task)

    async def _look_now(self) -> str:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                self._result = await self._look()
        except TimeoutError:
            self._result = f"no answer within {LOOK_SECONDS:.0f} s"
        finally:
            self._task, self._at = None, time.monotonic()
        return self._result
