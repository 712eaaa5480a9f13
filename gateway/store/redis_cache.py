"""A cache in Redis (`memory_cache.Cache`). Imported only if the settings ask for it: loading the client is slow."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from gateway.store.redis_client import connect
from gateway.store.redis_cluster import RedisCluster

PREFIX = b"cohere-gateway:cache:2:"
"""Of all keys in Redis. The number changes with the format of the values."""

TIMEOUT_SECONDS = 0.5
"""A slower answer of Redis counts as a miss: the call to Cohere waits for it."""

PAUSE_SECONDS = 5.0
"""After a failure Redis is not asked for so long, or every request would wait for it."""


class RedisCache:
    """A cache that all gateways at this Redis share. Redis evicts entries when it must."""

    def __init__(self, url: str, on_error: Callable[[Exception], None], cluster: bool = False) -> None:
        """Connects to nothing yet. on_error: is called with each failure. cluster: the URL names a node of one.

        Raises ValueError for a bad URL.
        """
        self._redis = RedisCluster(url, TIMEOUT_SECONDS) if cluster else connect(url, TIMEOUT_SECONDS)
        self._on_error = on_error
        self._paused_until = 0.0

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if not keys or time.monotonic() < self._paused_until:
            return [None] * len(keys)
        try:
            names = [PREFIX + key for key in keys]
            if isinstance(self._redis, RedisCluster):  # whose nodes have some of the keys each
                return _checked(await self._redis.execute_all(names, [("GET", name) for name in names]), len(keys))
            return _checked(await self._redis.mget(names), len(keys))
        except Exception as error:  # what answers may be no Redis, and the client trips over it in its own ways
            self._failed(error)
            return [None] * len(keys)

    async def put(self, entries: Sequence[tuple[bytes, bytes]], seconds: float) -> None:
        if time.monotonic() < self._paused_until:
            return
        # Redis refuses an expiry of 0.
        milliseconds = max(1, int(seconds * 1000))
        commands = [("SET", PREFIX + key, value, "PX", milliseconds) for key, value in entries]
        try:
            if isinstance(self._redis, RedisCluster):
                await self._redis.execute_all([PREFIX + key for key, _ in entries], commands)
                return
            # No MULTI: the entries have nothing to do with each other.
            async with self._redis.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                await pipeline.execute()
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._paused_until = time.monotonic() + PAUSE_SECONDS
        self._on_error(error)

    async def stop(self) -> None:
        await (self._redis.stop() if isinstance(self._redis, RedisCluster) else self._redis.aclose())


def _checked(values: Any, count: int) -> list[bytes | None]:
    """Returns the values of an MGET. Raises TypeError for an answer of another shape."""
    if not isinstance(values, list) or len(values) != count:
        raise TypeError("MGET was not answered with a list of its values")
    if not all(value is None or isinstance(value, bytes) for value in values):
        raise TypeError("MGET was not answered with texts")
    return values
