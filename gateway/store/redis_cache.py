"""A cache in Redis (`cache.Cache`), imported only where the settings ask for it: loading the client takes a while."""

import time
from collections.abc import Callable, Sequence
from typing import cast

from redis import RedisError
from redis.asyncio import Redis

PREFIX = b"cohere-gateway:cache:2:"
"""Of all keys in Redis. The number changes when entries are written in another way."""

MOST_SECONDS = 0.5
"""An answer of Redis's that takes longer is none: Cohere is waiting to be asked."""

PAUSE_SECONDS = 5.0
"""After a failure Redis is left alone this long, or every request would wait for it."""


class RedisCache:
    """Shared by all gateways that use this Redis, which forgets when it must. trouble: is told of failures."""

    def __init__(self, url: str, trouble: Callable[[Exception], None]) -> None:
        """Connects to nothing yet. Raises ValueError for a URL that is none."""
        self._redis = Redis.from_url(url, socket_timeout=MOST_SECONDS, socket_connect_timeout=MOST_SECONDS)
        # What is kept is bytes, whatever options the URL carries for others who use this Redis.
        self._redis.connection_pool.connection_kwargs["decode_responses"] = False
        self._trouble = trouble
        self._left_alone_until = 0.0

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if not keys or time.monotonic() < self._left_alone_until:
            return [None] * len(keys)
        try:
            found = await self._redis.mget([PREFIX + key for key in keys])
            return cast(list[bytes | None], found)
        except (RedisError, OSError) as error:
            self._failed(error)
            return [None] * len(keys)

    async def put(self, entries: Sequence[tuple[bytes, bytes]], seconds: float) -> None:
        if time.monotonic() < self._left_alone_until:
            return
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for key, value in entries:
                    pipeline.set(PREFIX + key, value, px=max(1, int(seconds * 1000)))
                await pipeline.execute()
        except (RedisError, OSError) as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._left_alone_until = time.monotonic() + PAUSE_SECONDS
        self._trouble(error)

    async def stop(self) -> None:
        await self._redis.aclose()
