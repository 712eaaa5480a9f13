"""The events of a response in the background, told to somebody who reads along, from any number on, at any time.

Where the response is worked on in this process they come from its memory, and news wakes the reader. Elsewhere the
storage is asked at intervals. A response whose worker died has no last event: it is made of what the response came to.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from gateway import operations
from gateway.store.responses import LIVE
from gateway.store.store import Store

POLL_SECONDS = 0.5
"""Between two looks at a response that another process works on."""

MOST_AT_ONCE = 500
"""Events that are read from the storage in one go."""


class Worked(Protocol):
    """A response that this process works on. over: nothing more comes; news: is set when something has come."""

    over: bool
    news: asyncio.Event

    def since(self, after: int) -> Sequence[bytes] | None: ...


async def follow(
    store: Store, owner: str, id: str, after: int, worked: Worked | None = None
) -> AsyncGenerator[Sequence[bytes], None]:
    """The events numbered above `after`, in order, as they come, until the last. Raises StoreUnavailable."""
    while True:
        if worked is not None:
            news = worked.news
            told = worked.since(after)
            if told:
                yield told
                after += len(told)
                if operations.is_last(told[-1]):
                    return
                continue
            if told is not None and not worked.over:
                await news.wait()
                continue
        found = await store.events(owner, id, after, MOST_AT_ONCE)
        if found:
            yield [event for _, event in found]
            after, newest = found[-1]
            if operations.is_last(newest):
                return
            continue
        response = await store.get(owner, id)
        if response is None:
            yield [operations.gone_event(after + 1)]
            return
        if response.status not in LIVE:
            number, newest = await store.last_event(owner, id) or (-1, b"")
            if number > after:
                continue  # it came between the two looks
            if number == after and not operations.is_last(newest):
                yield [operations.last_event(response.status, response.body, after + 1)]
            return
        await asyncio.sleep(POLL_SECONDS)
