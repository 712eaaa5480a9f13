"""The events of a background response for a reader, from any sequence number on, at any time.

If this process works on the response, the events come from its memory, and new ones wake the reader. Else the storage
is polled. A response whose worker died has no last event; one is made from the response object.
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
"""Between two queries for a response that another process works on."""

PAGE_SIZE = 500
"""Events that one query reads from the storage."""


class LocalRun(Protocol):
    """A response that this process works on. ended: no more events come. changed: is set at the next event or the end,
    and replaced by a new one.
    """

    ended: bool
    changed: asyncio.Event

    def since(self, after: int) -> Sequence[bytes] | None:
        """Returns the events numbered above `after`; None if not all of them are in memory."""
        ...


async def replay(
    store: Store, owner: str, id: str, after: int, keep_alive: float, local_run: LocalRun | None = None
) -> AsyncGenerator[Sequence[bytes], None]:
    """Yields batches of the events numbered above `after`, in order, as they come, until the last.

    After `keep_alive` seconds without an event it yields an empty batch, so that no proxy takes the connection for
    dead. Raises StoreUnavailable.
    """
    ended = False
    while not ended:
        # None of memory means that older events are needed, or that the run is over and forgotten: the storage has
        # both.
        events = await _from_memory(local_run, after, keep_alive) if local_run is not None else None
        if events is None:
            events, ended = await _from_store(store, owner, id, after, keep_alive)
        if events or not ended:
            yield events
        after += len(events)
        ended = ended or bool(events) and responses_answer.is_last(events[-1])


async def _from_memory(run: LocalRun, after: int, keep_alive: float) -> Sequence[bytes] | None:
    """Returns the next events in this process, none after `keep_alive` seconds; None if the storage must be asked."""
    while True:
        # Taken before the look at the events, or one that comes between the two would be waited for in vain.
        changed = run.changed
        events = run.since(after)
        if events:
            return events
        if events is None or run.ended:
            return None
        try:
            async with asyncio.timeout(None if math.isinf(keep_alive) else keep_alive):
                await changed.wait()
        except TimeoutError:
            return ()


async def _from_store(store: Store, owner: str, id: str, after: int, keep_alive: float) -> tuple[Sequence[bytes], bool]:
    """Returns the next stored events, none after `keep_alive` seconds; and whether the stream ends with them."""
    deadline = time.monotonic() + keep_alive
    while time.monotonic() < deadline:
        numbered = await store.events(owner, id, after, PAGE_SIZE)
        if numbered:
            return [event for _, event in numbered], False
        if await store.inactive([id]):  # asked first, because a response may be large
            last = await _last_events(store, owner, id, after)
            if last is not None:
                return last, True
        await asyncio.sleep(POLL_SECONDS)
    return (), False


async def _last_events(store: Store, owner: str, id: str, after: int) -> Sequence[bytes] | None:
    """Returns the rest of the events of a response that nobody works on; None if more may come."""
    response = await store.get(owner, id)
    if response is None:
        return [responses_answer.gone_event(after + 1)]
    # Its worker may be alive and only be slow. Whether its lease is over is not decided here (`maintenance.py`).
    if response.status in LIVE:
        return None
    number, newest = await store.last_event(owner, id) or (-1, b"")
    if number > after:
        return None  # it was stored between the two queries
    if number < after or responses_answer.is_last(newest):
        return ()
    return [responses_answer.last_event(response.status, response.body, after + 1)]
