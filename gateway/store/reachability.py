"""Whether the database and Redis answer at all: for health checks and for the command `check`."""

import asyncio
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, inspect, select, text

from gateway.store.database import Address, driver_errors, translate_errors
from gateway.store.tables import HEAD, VERSION

SECONDS = 5.0


class DatabaseCondition(Struct, frozen=True):
    """What a database says of itself. version: of its tables; None where there are none. newest: what this gateway
    brings them to. clock: its Unix seconds, None for SQLite, which has none of its own.
    """

    version: str | None
    newest: str
    clock: float | None = None


class RedisCondition(Struct, frozen=True):
    """eviction: the policy `maxmemory-policy`; empty where Redis does not say."""

    version: str
    eviction: str = ""


def answer(connection: Connection) -> None:
    """Asks the database for nothing, as work for `Database.read`."""
    connection.execute(select(1))


async def condition_of_database(url: str) -> DatabaseCondition:
    """Looks at a database and changes nothing. Raises StoreUnavailable, and ValueError for a bad URL."""
    address = Address.of(url)
    if address.path is not None and not address.path.exists():
        return DatabaseCondition(None, HEAD)
    executor = address.executor(SECONDS, 1)
    try:
        with translate_errors(driver_errors(address)):
            async with asyncio.timeout(SECONDS):
                return await executor.run(_look, False)
    finally:
        await executor.close()


def _look(connection: Connection) -> DatabaseCondition:
    version = connection.scalar(select(VERSION.c.version_num)) if inspect(connection).has_table(VERSION.name) else None
    clock = None
    if connection.dialect.name == "postgresql":
        clock = float(connection.scalar(text("select extract(epoch from clock_timestamp())")))
    return DatabaseCondition(version, HEAD, clock)


class RedisReachability:
    """Asks one Redis whether it is there. url: may be empty, where there is none. Raises ValueError for a bad URL."""

    def __init__(self, url: str) -> None:
        self._redis: Any = None
        if url:
            from gateway.store.redis_client import connect  # loading the client is slow

            self._redis = connect(url, SECONDS)

    async def condition(self) -> str:
        """Returns why it does not answer; an empty text if it does."""
        try:
            await self._redis.ping()
        except Exception as error:  # what answers may be no Redis, and the client trips over it in its own ways
            return f"Redis does not answer: {type(error).__name__}: {error}"
        return ""

    async def describe(self) -> RedisCondition:
        """Returns what it says of itself. Raises what the client raises."""
        info = await self._redis.info("server")
        try:
            policy = (await self._redis.config_get("maxmemory-policy")).get("maxmemory-policy", "")
        except Exception:  # a service that does not allow CONFIG
            policy = ""
        return RedisCondition(
            str(info.get("redis_version", "")), policy.decode() if isinstance(policy, bytes) else policy
        )

    async def stop(self) -> None:
        """Closes its connections."""
        if self._redis is not None:
            await self._redis.aclose()
