"""Databases for one test: empty ones, and such of the newest version.

Each version is a migration, and to run them all takes longer than most tests. So one database of each kind is migrated
for all tests of a process, and those of the newest version are its copies. To copy and to drop one takes PostgreSQL an
eighth of a second of CPU: what a test has left is emptied, and gets another name for the next one, unless more than its
rows has changed or somebody is still connected. PostgreSQL is looked for at its standard port, or where
GATEWAY_TEST_POSTGRESQL says; without it its tests are skipped, or fail where GATEWAY_TEST_REQUIRE_SERVICES is set, as
in CI.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
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

_templates: list[Template] = []
"""PostgreSQL's database of the newest version, once it was made."""

_spare: list[str] = []
"""Names of databases that are as the template is, for the tests to come."""

STRUCTURE = """
SELECT string_agg(line, E'\\n' ORDER BY line) FROM (
    SELECT format('%s.%s %s %s %s', attrelid::regclass, attname, atttypid::regtype, attnotnull, attnum) AS line
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT format('%s %s', conrelid::regclass, pg_get_constraintdef(oid)) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT format('%s %s', adrelid::regclass, pg_get_expr(adbin, adrelid)) FROM pg_attrdef
    UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger
    UNION ALL SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT format('%s %s', relname, relacl) FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT setconfig::text FROM pg_db_role_setting
    WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
) AS lines
"""
"""All that a database is made of but its rows, as one text."""


TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"

WRITTEN_TABLES = f"""
{TABLES} AND (relkind = 'r' AND pg_relation_size(oid) > 0 OR relispartition)
"""
"""The tables that have, or have had, rows; of a partitioned one its partitions have them."""


@dataclass(frozen=True)
class Template:
    """A database of the newest version. rows: of each table, as JSON, where the migrations have written some."""

    name: str
    structure: str
    rows: dict[str, str | None]


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
        name = await (_created(connection) if empty else _take(connection))
        try:
            yield _url_of(name)
        finally:
            await (_drop(connection, name) if empty else _give_back(connection, name))


@contextlib.contextmanager
def throwaway_url(kind: str, folder: Path) -> Iterator[str]:
    """The same for tests without an event loop of their own."""
    if kind == "sqlite":
        yield sqlite(folder)
        return

    async def take() -> str:
        async with administration() as connection:
            return await _take(connection)

    async def leave() -> None:
        async with administration() as connection:
            await _give_back(connection, name)

    name = asyncio.run(take())
    try:
        yield _url_of(name)
    finally:
        asyncio.run(leave())


async def drop_templates() -> None:
    """Remove what the process's tests were copied from, and what they have left. Call it at the end."""
    if _templates:
        async with administration() as connection:
            for name in (_templates.pop().name, *_spare):
                await _drop(connection, name)
            _spare.clear()


async def _postgresql_template(connection: asyncpg.Connection) -> Template:
    if not _templates:
        name = await _created(connection)
        await asyncio.to_thread(upgrade, _url_of(name))
        database = await asyncpg.connect(_url_of(name), timeout=WAIT_SECONDS)
        try:
            tables = [row[0] for row in await database.fetch(TABLES)]
            rows = {table: await database.fetchval(f"SELECT json_agg(one) FROM {table} AS one") for table in tables}  # noqa: S608
            _templates.append(Template(name, await database.fetchval(STRUCTURE), rows))
        finally:
            await database.close()
    return _templates[0]


async def _take(connection: asyncpg.Connection) -> str:
    template = await _postgresql_template(connection)
    return _spare.pop() if _spare else await _created(connection, f" TEMPLATE {template.name}")


async def _give_back(connection: asyncpg.Connection, name: str) -> None:
    """Keep a database for the next test if it is as the template is once it has been emptied, and drop it otherwise.

    With another name: a process that has outlived its test finds it no longer.
    """
    new = f"gateway_test_{uuid.uuid4().hex}"
    try:
        reusable = await _empty(name)
        if reusable:
            await connection.execute(f"ALTER DATABASE {name} RENAME TO {new}")  # an error if somebody is connected
    except (OSError, asyncpg.PostgresError):
        reusable = False
    if reusable:
        _spare.append(new)
    else:
        await _drop(connection, name)


async def _empty(name: str) -> bool:
    """Make a database's rows those of the template. Return whether the rest of it is the template's, too."""
    template = _templates[0]
    database = await asyncpg.connect(_url_of(name), timeout=WAIT_SECONDS)
    try:
        async with database.transaction():
            await database.execute("SET LOCAL lock_timeout = '1s'")
            tables = [row[0] for row in await database.fetch(WRITTEN_TABLES)]
            others = [table for table in tables if table not in template.rows]  # a partition, as a rule
            if others:
                await database.execute(f"DROP TABLE {', '.join(others)}")
            own = [table for table in tables if table in template.rows]
            if own:
                await database.execute(f"TRUNCATE {', '.join(own)}")
            for table in own:
                if rows := template.rows[table]:
                    insert = f"INSERT INTO {table} SELECT * FROM json_populate_recordset(NULL::{table}, $1)"  # noqa: S608
                    await database.execute(insert, rows)
            return bool(await database.fetchval(STRUCTURE) == template.structure)
    finally:
        await database.close()


async def _drop(connection: asyncpg.Connection, name: str) -> None:
    await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


async def _created(connection: asyncpg.Connection, options: str = "") -> str:
    name = f"gateway_test_{uuid.uuid4().hex}"
    await connection.execute(f"CREATE DATABASE {name}{options}")
    return name


def _url_of(name: str) -> str:
    return make_url(POSTGRESQL).set(database=name).render_as_string(hide_password=False)
