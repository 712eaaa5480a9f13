"""When the garbage collector looks at which objects: at the young ones often, at all of them when few callers wait.

A collection of all objects lets nothing else run: 0.13 ms for each open stream, 0.13 s with a thousand. CPython would
begin one whenever a quarter of the objects are new. Nearly everything dies by its reference count, so what only such
a collection finds, cycles that outlived two looks at younger objects, may wait for a quiet moment. It does not wait for
ever: a worker that is never quiet collects once memory has grown, or after an hour.

Objects that wait are not frozen, as they were to be unfrozen for the collection: so would be what was made before the
first request, for which it would take 0.1 s even in a quiet moment.
"""

import asyncio
import gc
import time
from collections.abc import Callable

from gateway.observability import process_usage
from gateway.observability.process_usage import ProcessUsage

YOUNG_OBJECTS, MIDDLE_EVERY, NEVER = 5_000, 10, 2**30
"""When the garbage collector looks at the youngest objects, in allocations (CPython's default: 700), after how many of
these looks at those that survived one, and after how many of those by itself at all. From 3.14 on CPython looks at all
of them piece by piece, and ignores the last number.

To look at an object takes half a microsecond or more: 5,000 young ones are two milliseconds, 50,000 of the next age 25.
A request makes more objects than CPython's threshold, nearly all of which die by reference count.
"""

LOOK_SECONDS = 1.0

QUIET_FILES, QUIET_COLLECTIONS = 100, 20
"""A worker is quiet that has so many files open, connections in the first place, beyond those of its start. Then all
objects are due for collection after so many collections of middle-aged ones.
"""

GROWTH, GROWTH_BYTES, BUSY_SECONDS = 0.25, 64 << 20, 60.0
"""A busy worker collects when its memory has grown by this share and these bytes, not again within these seconds."""

LONGEST_SECONDS = 3_600.0
"""Between two collections of all objects, where there were any of middle-aged ones."""


class GarbageCollection:
    """The collections of one worker. It looks once a second whether all objects are due.

    observe: gets the seconds that a collection took, of whichever age. usage, clock: what the process uses; seconds.
    """

    def __init__(
        self,
        observe: Callable[[float], None],
        usage: Callable[[], ProcessUsage] = process_usage.read,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._observe, self._usage, self._clock = observe, usage, clock
        self._began = 0.0
        self._seconds: list[float] = []  # of collections, since the last look
        self._middle = 0  # collections of middle-aged objects since the last one of all
        used = usage()
        self._files_at_start, self._resident = used.open_files, used.resident_bytes
        self._collected_at = clock()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Looks once a second from now on."""
        gc.callbacks.append(self._note)
        loop.call_later(LOOK_SECONDS, self._look_again, loop)

    def stop(self) -> None:
        """Hears no more of collections."""
        gc.callbacks.remove(self._note)

    def look(self) -> None:
        """Collects all objects if they are due, and reports the collections that were."""
        used = self._usage()
        # The least since the last collection, as memory may also have shrunk by itself: growth counts from there.
        self._resident = min(self._resident, used.resident_bytes)
        if self._middle and self._due(used):
            gc.collect()
            self._middle, self._collected_at = 0, self._clock()
            self._resident = self._usage().resident_bytes
        # Not at once: a collection may begin while the metric's lock is held.
        seconds, self._seconds = self._seconds, []
        for one in seconds:
            self._observe(one)

    def _due(self, used: ProcessUsage) -> bool:
        if used.open_files <= self._files_at_start + QUIET_FILES and self._middle >= QUIET_COLLECTIONS:
            return True
        since = self._clock() - self._collected_at
        grown = used.resident_bytes - self._resident
        return since >= LONGEST_SECONDS or (
            since >= BUSY_SECONDS and grown >= max(GROWTH_BYTES, int(self._resident * GROWTH))
        )

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        self.look()
        loop.call_later(LOOK_SECONDS, self._look_again, loop)

    def _note(self, phase: str, about: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self._seconds.append(time.perf_counter() - self._began)
            self._middle += about["generation"] == 1


def keep_what_is_loaded() -> None:
    """Keeps the collector from looking at what is there now, and at all other objects unless it is told to."""
    # Before they are frozen: what is frozen is never looked at again, and garbage would stay for good.
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, MIDDLE_EVERY, NEVER)
