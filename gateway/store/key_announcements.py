"""How processes hear at once that keys have changed: from PostgreSQL, and from Redis where one is configured.

Nothing depends on it: every process looks at the revision each second as well (`gateway/auth/directory.py`). An
announcement says only that there is something to load, so a lost one costs a second, and a forged one a query.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from gateway.store.database import Address
from gateway.store.keys import CHANNEL

RECONNECT_SECONDS = 1.0
"""Pause before a lost connection is opened again."""

CONNECT_SECONDS = 5.0


class Announcements(Protocol):
    """One way to hear of changes."""

    async def listen(self, on_change: Callable[[], None]) -> None:
        """Calls `on_change` for every announcement, and after each time of silence. Ends when it is cancelled."""
        ...

    async def publish(self) -> None:
        """Announces a change of this process. Never fails: the others notice in a second anyway."""
        ...


def announcements(database_url: str, redis_url: str) -> list[Announcements]:
    """Returns the ways that these settings offer. Raises ValueError for a bad URL."""
    ways: list[Announcements] = []
    address = Address.of(database_url)
    if address.path is None:
        ways.append(PostgresAnnouncements(address.url.render_as_string(hide_password=False)))
    if redis_url:
        ways.append(RedisAnnouncements(redis_url))
    return ways


async def _reconnecting(listen: Callable[[Callable[[], None]], Any], on_change: Callable[[], None]) -> None:
    while True:
        try:
            await listen(on_change)
        except Exception:  # the poll says what is wrong with the database, once; this connection is only quicker
            pass
        await asyncio.sleep(RECONNECT_SECONDS)


class PostgresAnnouncements:
    """LISTEN on a connection of its own. The writer's transaction announces by itself (`keys.py`)."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    async def listen(self, on_change: Callable[[], None]) -> None:
        await _reconnecting(self._listen_once, on_change)

    async def publish(self) -> None:
        pass

    async def _listen_once(self, on_change: Callable[[], None]) -> None:
        import asyncpg  # type: ignore[import-untyped]

        closed = asyncio.Event()
        connection = await asyncpg.connect(self._dsn, timeout=CONNECT_SECONDS)
        try:
            connection.add_termination_listener(lambda connection: closed.set())
            await connection.add_listener(CHANNEL, lambda *message: on_change())
            on_change()  # what was announced while nobody listened
            await closed.wait()
        finally:
            # Not `close`, which would wait for a server that may be gone.
            connection.terminate()


class RedisAnnouncements:
    """Redis' publish and subscribe."""

    def __init__(self, url: str) -> None:
        """Connects to nothing yet. Raises ValueError for a bad URL."""
        from redis.asyncio import Redis

        self._redis = Redis.from_url(url, socket_connect_timeout=CONNECT_SECONDS)

    async def listen(self, on_change: Callable[[], None]) -> None:
        try:
            await _reconnecting(self._listen_once, on_change)
        finally:
            await self._redis.aclose()

    async def publish(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._redis.publish(CHANNEL, b"")
        except Exception:  # as in `_reconnecting`
            pass

    async def _listen_once(self, on_change: Callable[[], None]) -> None:
        async with self._redis.pubsub() as subscription:
            await subscription.subscribe(CHANNEL)
            async for _ in subscription.listen():  # the first message says that the subscription holds
                on_change()
