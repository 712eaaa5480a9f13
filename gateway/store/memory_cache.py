"""What may be forgotten at any time: bytes under a key, for so many seconds. Here in this process; in Redis by
`redis_cache.py`.

A cache that fails has nothing: no method raises. What is put in is whole answers, which are paid for already, so
losing one costs a request to Cohere and no more.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

ENTRY_OVERHEAD = 200
"""Bytes that an entry takes in memory beyond its key and its value, about."""


class Cache(Protocol):
    """What a cache can do, wherever it keeps things."""

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """What is kept under each of the keys, in their order; None where nothing is."""
        ...

    async def put(self, entries: Sequence[tuple[bytes, bytes]], seconds: float) -> None:
        """Keeps these keys and values for so long, or shorter."""
        ...

    async def stop(self) -> None:
        """Lets go of memory and connections."""
        ...


class MemoryCache:
    """At most so many bytes; what was not asked for longest goes first. clock: seconds that only grow."""

    def __init__(self, most_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._now = most_bytes, clock
        self._entries: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self.size = 0

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self._get(key) for key in keys]

    def _get(self, key: bytes) -> bytes | None:
        found = self._entries.get(key)
        if found is None:
            return None
        until, value = found
        if until <= self._now():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return value

    async def put(self, entries: Sequence[tuple[bytes, bytes]], seconds: float) -> None:
        until = self._now() + seconds
        for key, value in entries:
            if key in self._entries:
                self._drop(key)
            if _size(key, value) > self._most:
                continue
            self._entries[key] = until, value
            self.size += _size(key, value)
            while self.size > self._most:
                self._drop(next(iter(self._entries)))

    def _drop(self, key: bytes) -> None:
        _, value = self._entries.pop(key)
        self.size -= _size(key, value)

    async def stop(self) -> None:
        self._entries.clear()
        self.size = 0


def _size(key: bytes, value: bytes) -> int:
    return len(key) + len(value) + ENTRY_OVERHEAD
