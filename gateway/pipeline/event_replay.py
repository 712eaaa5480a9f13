"""The events of a response in the background, told to somebody who reads along, from any number on, at any time.

Where the response is worked on in this process they come from its memory, and news wakes the reader. Elsewhere the
storage is asked at intervals. A response whose worker died has no last event: it is made of what the response came to.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from gateway.store.responses import LIVE
from gateway.store.store import Store
from translators.operations import responses_answer

POLL_SECONDS = 0.5
"""Between two looks at a response that another process works on."""

MOST_AT_ONCE = 500
"""Events that are read from the storage in one go."""


class Worked(Protocol):
    """A response that this process works on. over: nothing more comes; news: is set when something has come."""

    over: bool
    news: asyncio.Event

    def since(self, after: int) -> Sequence[bytes] | None:
        """The events numbered above `after`; None if not all of them are in memory."""
        ...


async def follow(
    store: Store, owner: str, id: str, after: int, quiet: float, worked: Worked | None = None
) -> AsyncGenerator[Sequence[bytes], None]:
    """The events numbered above `after`, in order, as they come, until the last. Raises StoreUnavailable.

    After `quiet` seconds without an event an empty batch is told, so that nobody on the way takes the connection for
    dead.
    """
    over = False
    while not over:
        told = await _here(worked, after, quiet) if worked is not None else None
        if told is None:
            told, over = await _stored(store, owner, id, after, quiet)
        if told or not over:
            yield told
        after += len(told)
        over = over or bool(told) and responses_answer.is_last(told[-1])


async def _here(worked: Worked, after: int, quiet: float) -> Sequence[bytes] | None:
    """The next events that this process has, none if it is quiet; None where the storage must be asked."""
    while True:
        news = worked.news
        told = worked.since(after)
        if told:
            return told
        if told is None or worked.over:
            return None
        try:
            async with asyncio.timeout(None if math.isinf(quiet) else quiet):
                await news.wait()
        except TimeoutError:
            return ()


async def _stored(store: Store, owner: str, id: str, after: int, quiet: float) -> tuple[Sequence[bytes], bool]:
    """The next events that the storage has, none if it is quiet; and whether nothing follows."""
    until = time.monotonic() + quiet
    while time.monotonic() < until:
        found = await store.events(owner, id, after, MOST_AT_ONCE)
        if found:
            return [event for _, event in found], False
        if await store.cancelled([id]):  # asked first, because a response may be large
            ending = await _ending(store, owner, id, after)
            if ending is not None:
                return ending, True
        await asyncio.sleep(POLL_SECONDS)
    return (), False


async def _ending(store: Store, owner: str, id: str, after: int) -> Sequence[bytes] | None:
    """What is left to be told of a response that nobody works on; None if it is not so."""
    response = await store.get(owner, id)
    if response is None:
        return [responses_answer.gone_event(after + 1)]
    if response.status in LIVE:
        return None
    number, newest = await store.last_event(owner, id) or (-1, b"")
    if number > after:
        return None  # it came between the two looks
    if number < after or responses_answer.is_last(newest):
        return ()
    return [responses_answer.last_event(response.status, response.body, after + 1)]
