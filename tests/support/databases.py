"""Databases for one test: empty ones, and such of the newest version.

Each version is a migration, and to run them all takes longer than most tests. So one database of each kind is migrated
for all tests of a process, and those of the newest version are its copies. PostgreSQL is looked for at its standard
port, or where GATEWAY_TEST_POSTGRESQL says; without it its tests are skipped, or fail where
GATEWAY_TEST_REQUIRE_SERVICES is set, as in CI.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]
import pytest
from sqlalchemy import make_url

from gateway.ledger.writer import address_of
from gateway.store.database import upgrade
from support.waiting import WAIT_SECONDS

POSTGRESQL = os.environ.get("GATEWAY_TEST_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432/postgres")
REQUIRED = os.environ.get("GATEWAY_TEST_REQUIRE_SERVICES") == "1"
KINDS = ("sqlite", "postgresql")

_templates: list[str] = []
"""The name of PostgreSQL's database of the newest version, once it was made."""


def sqlite(folder: str | Path, name: str = "gateway.sqlite3") -> str:
    """Return the URL of a SQLite database of the newest version, the ledger's beside it."""
    url = f"sqlite:///{folder}/{name}"
    for path in (Path(folder, name), Path(address_of(url, "")[0].removeprefix("sqlite:///"))):
        path.write_bytes(_sqlite_file())
        path.chmod(0o600)
    return url


@cache
def _sqlite_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "template.sqlite3")
        migration = threading.Thread(target=upgrade, args=(f"sqlite:///{path}",))  # it runs a loop of its own
        migration.start()
        migration.join()
        return path.read_bytes()


@contextlib.asynccontextmanager
async def administration() -> AsyncIterator[asyncpg.Connection]:
    """A connection that may create databases. Skips, or fails, without PostgreSQL."""
    try:
        connection = await asyncpg.connect(POSTGRESQL, timeout=WAIT_SECONDS)
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        if REQUIRED:
            pytest.fail(f"PostgreSQL is required here and cannot be reached: {error}")
        pytest.skip(f"no PostgreSQL at {make_url(POSTGRESQL).set(password=None)}: {type(error).__name__}")
    try:
        yield connection
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def throwaway(kind: str, folder: Path, *, empty: bool = False) -> AsyncIterator[str]:
    """The URL of a database without rows: of the newest version, or `empty`."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/store.db" if empty else sqlite(folder, "store.db")
        return
    async with administration() as connection:
        template = "" if empty else f" TEMPLATE {await _postgresql_template(connection)}"
        name = await _created(connection, template)
        try:
            yield _url_of(name)
        finally:
            await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@contextlib.contextmanager
def throwaway_url(kind: str, folder: Path) -> Iterator[str]:
    """The same for tests without an event loop of their own."""
    if kind == "sqlite":
        yield sqlite(folder)
        return

    async def create() -> str:
        async with administration() as connection:
            return await _created(connection, f" TEMPLATE {await _postgresql_template(connection)}")

    async def drop() -> None:
        async with administration() as connection:
            await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    name = asyncio.run(create())
    try:
        yield _url_of(name)
    finally:
        asyncio.run(drop())


async def drop_templates() -> None:
    """Remove what the process's tests were copied from. Call it at the end."""
    if _templates:
        async with administration() as connection:
            await connection.execute(f"DROP DATABASE IF EXISTS {_templates.pop()} WITH (FORCE)")


async def _postgresql_template(connection: asyncpg.Connection) -> str:
    if not _templates:
        name = await _created(connection)
        await asyncio.to_thread(upgrade, _url_of(name))
        _templates.append(name)
    return _templates[0]


async def _created(connection: asyncpg.Connection, options: str = "") -> str:
    name = f"gateway_test_{uuid.uuid4().hex}"
    await connection.execute(f"CREATE DATABASE {name}{options}")
    return name


def _url_of(name: str) -> str:
    return make_url(POSTGRESQL).set(database=name).render_as_string(hide_password=False)
