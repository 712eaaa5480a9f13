"""A cache of bytes in this process, and the interface of all caches; `redis_cache.py` has one in Redis.

No method raises: a cache that fails is empty. Its values are answers that are paid for already, so losing one costs a
request to Cohere and no more.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

ENTRY_OVERHEAD = 200
"""Bytes of memory that an entry takes beside its key and its value, about."""


class Cache(Protocol):
    """A cache, wherever its values are."""

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Returns the value of each key, in order; None for a miss."""
        ...

    async def put(self, entries: Sequence[tuple[bytes, bytes]], seconds: float) -> None:
        """Stores keys and values for at most so long."""
        ...

    async def stop(self) -> None:
        """Frees memory and connections."""
        ...


class MemoryCache:
    """A cache of limited size; the entry that was used least recently goes first."""

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds that only grow."""
        self._max_bytes, self._now = max_bytes, clock
        self._entries: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self.size = 0

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self._get(key) for key in keys]

    def _get(self, key: bytes) -> bytes | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        expires_at, value = entry
        if expires_at <= self._now():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return value

    async def put(self, entries: Sequence[tuple[bytes, bytes]], seconds: float) -> None:
        expires_at = self._now() + seconds
        for key, value in entries:
            if key in self._entries:
                self._drop(key)
            # It would drive out all others and then itself.
            if _size(key, value) > self._max_bytes:
                continue
            self._entries[key] = expires_at, value
            self.size += _size(key, value)
            while self.size > self._max_bytes:
                self._drop(next(iter(self._entries)))

    def _drop(self, key: bytes) -> None:
        _, value = self._entries.pop(key)
        self.size -= _size(key, value)

    async def stop(self) -> None:
        self._entries.clear()
        self.size = 0


def _size(key: bytes, value: bytes) -> int:
    return len(key) + len(value) + ENTRY_OVERHEAD
