"""A cache in Redis (`memory_cache.Cache`). Imported only if the settings ask for it: loading the client is slow."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import Redis

PREFIX = b"cohere-gateway:cache:2:"
"""Of all keys in Redis. The number changes with the format of the values."""

TIMEOUT_SECONDS = 0.5
"""A slower answer of Redis counts as a miss: the call to Cohere waits for it."""

PAUSE_SECONDS = 5.0
"""After a failure Redis is not asked for so long, or every request would wait for it."""


class RedisCache:
    """A cache that all gateways at this Redis share. Redis evicts entries when it must."""

    def __init__(self, url: str, on_error: Callable[[Exception], None]) -> None:
        """Connects to nothing yet. on_error: is called with each failure. Raises ValueError for a bad URL."""
        self._redis = Redis.from_url(url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS)
        # The values are bytes, whatever options the URL carries for other users of this Redis.
        self._redis.connection_pool.connection_kwargs["decode_responses"] = False
        self._on_error = on_error
        self._paused_until = 0.0

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if not keys or time.monotonic() < self._paused_until:
            return [None] * len(keys)
        try:
            return _checked(await self._redis.mget([PREFIX + key for key in keys]), len(keys))
        except Exception as error:  # what answers may be no Redis, and the client trips over it in its own ways
            self._failed(error)
            return [None] * len(keys)

    async def put(self, entries: Sequence[tuple[bytes, bytes]], seconds: float) -> None:
        if time.monotonic() < self._paused_until:
            return
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for key, value in entries:
                    pipeline.set(PREFIX + key, value, px=max(1, int(seconds * 1000)))
                await pipeline.execute()
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._paused_until = time.monotonic() + PAUSE_SECONDS
        self._on_error(error)

    async def stop(self) -> None:
        await self._redis.aclose()


def _checked(values: Any, count: int) -> list[bytes | None]:
    """The values of an MGET. Raises TypeError for an answer of another shape."""
    if not isinstance(values, list) or len(values) != count:
        raise TypeError("MGET was not answered with a list of its values")
    if not all(value is None or isinstance(value, bytes) for value in values):
        raise TypeError("MGET was not answered with texts")
    return values
