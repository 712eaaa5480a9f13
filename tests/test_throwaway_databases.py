"""PostgreSQL's databases of one test, which go from test to test: each is as a new one, whatever was done to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]
import pytest

from support import databases
from support.databases import throwaway

CHANGES = {
    "rows": (True, "INSERT INTO key_revision VALUES (7, 7); UPDATE key_revision SET value = 9 WHERE id = 1"),
    "a row less": (True, "DELETE FROM alembic_version"),
    "a partition": (True, "CREATE TABLE ledger_of_a_test PARTITION OF ledger DEFAULT"),
    "a table": (False, "CREATE TABLE of_a_test (id int)"),
    "a table less": (False, "DROP TABLE runs"),
    "a column": (False, "ALTER TABLE runs ADD COLUMN of_a_test int"),
    "an index less": (False, "DROP INDEX ix_teams_revision"),
    "a setting": (
        False,
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 64', current_database()); END $$",
    ),
    "a function": (False, "CREATE FUNCTION of_a_test() RETURNS int LANGUAGE sql AS 'SELECT 1'"),
}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """What these tests leave, apart from what others have left, of which they take one."""
    others = databases._spare
    own = others[-1:]
    del others[-1:]
    monkeypatch.setattr(databases, "_spare", own)
    yield lambda: own
    others += own


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.asyncio
async def test_the_next_one_is_as_new(change: str, alone: Callable[[], list[str]], tmp_path: Path) -> None:
    reusable, statement = CHANGES[change]
    async with throwaway("postgresql", tmp_path) as url:
        before = await content(url)
        connection = await asyncpg.connect(url)
        await connection.execute(statement)
        await connection.close()
    assert bool(alone()) == reusable
    async with throwaway("postgresql", tmp_path) as another:
        assert another != url and await content(another) == before


@pytest.mark.asyncio
async def test_where_somebody_is_connected_nobody_comes_after(alone: Callable[[], list[str]], tmp_path: Path) -> None:
    async with throwaway("postgresql", tmp_path) as url:
        connection = await asyncpg.connect(url)
    assert not alone()
    with pytest.raises(asyncpg.PostgresError):
        await asyncpg.connect(url)
    connection.terminate()


async def content(url: str) -> tuple[str, dict[str, list[asyncpg.Record]]]:
    """The structure of a database, and the rows of its tables."""
    connection = await asyncpg.connect(url)
    try:
        tables = [row[0] for row in await connection.fetch(databases.TABLES)]
        rows = {table: await connection.fetch(f"SELECT * FROM {table} ORDER BY 1") for table in tables}  # noqa: S608
        return str(await connection.fetchval(databases.STRUCTURE)), rows
    finally:
        await connection.close()
