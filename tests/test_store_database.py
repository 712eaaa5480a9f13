"""The store and its database: how tables come to be, and what happens when the database does not answer.

What is stored is the subject of `test_store_responses.py` and `test_store_conversations.py`. The databases of these
tests begin empty.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import msgspec
import pytest
import pytest_asyncio
from sqlalchemy import Connection, Engine, event, inspect, make_url, select

from gateway.store.conversations import Conversation
from gateway.store.database import Address, Database, upgrade
from gateway.store.errors import StoreUnavailable
from gateway.store.migrations import LOCK
from gateway.store.responses import StoredResponse
from gateway.store.store import Store
from gateway.store.tables import HEAD, METADATA, RESPONSES, VERSION
from support.databases import KINDS, administration, throwaway
from support.waiting import WAIT_SECONDS
from translators.operations.stored_responses import end_interrupted

ROOT = Path(__file__).resolve().parents[1]

OWNER = "somebody"
BODY = '{"id": "resp_1",  "status":"completed","text":"Grüße \\u0000"}'.encode()


def stored(id: str = "resp_1", **changes: Any) -> StoredResponse:
    """A finished response that never expires, unless told otherwise."""
    values: dict[str, Any] = {
        "id": id,
        "owner": OWNER,
        "status": "completed",
        "created_at": 1_700_000_000,
        "expires_at": None,
        "model": "cohere/command-a-03-2025",
        "previous_id": None,
        "conversation_id": None,
        "background": False,
        "body": BODY,
        "items": b'[{"type": "message"}]',
        "output": b"[ ]",
    }
    return StoredResponse(**{**values, **changes})


@contextlib.asynccontextmanager
async def running(url: str, **options: Any) -> AsyncIterator[Store]:
    """A store that is started, and stopped in the end. It waits long: a busy machine is no reason to fail."""
    store = Store(url, end_interrupted, **{"timeout": 30.0, **options})
    try:
        await store.start()
        yield store
    finally:
        await store.stop()


@pytest_asyncio.fixture(params=KINDS)
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    async with throwaway(request.param, tmp_path, empty=True) as url:
        yield url


@pytest_asyncio.fixture
async def postgresql(tmp_path: Path) -> AsyncIterator[str]:
    async with throwaway("postgresql", tmp_path, empty=True) as url:
        yield url


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def name_of(url: str) -> str:
    """PostgreSQL's database."""
    return str(make_url(url).database)


# --- addresses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("sqlite:///here.db", "here.db"),
        ("sqlite+aiosqlite:////var/lib/there.db", "/var/lib/there.db"),
        ("postgresql://me:secret@host/name?sslmode=require", None),
        ("postgres://host/name", None),
        ("postgresql+asyncpg://host/name", None),
    ],
)
def test_an_address(text: str, path: str | None) -> None:
    assert Address.of(text).path == (None if path is None else Path(path))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gateway.db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?uri=true",
        "sqlite://secret/x",
        "mysql://me:secret@host/x",
    ],
)
def test_no_address(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        Store(text, end_interrupted)
    assert "secret" not in str(refused.value)


# --- tables -------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_migrations_make_the_tables_that_the_code_knows(url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def differences(connection: Connection) -> Any:
        others = {"sqlite": "ix_ledger_request_id", "postgresql": "ix_ledger_segment"}[connection.dialect.name]
        options = {"compare_type": False, "include_object": lambda _, name, *more: name != others}
        return compare_metadata(MigrationContext.configure(connection, opts=options), METADATA)

    database = Database(url, 30.0, 1)
    await database.open()
    assert await database.read(differences) == []
    assert await database.read(lambda c: c.scalar(select(VERSION.c.version_num))) == HEAD
    await database.close()


def test_the_head_is_the_newest_migration() -> None:
    from alembic.script import ScriptDirectory

    assert ScriptDirectory(str(ROOT / "gateway/store/migrations")).get_heads() == [HEAD]


@pytest.mark.asyncio
async def test_upgrade_is_a_command_of_its_own(url: str) -> None:
    for _ in range(2):
        await asyncio.to_thread(upgrade, url)
    async with running(url) as store:
        assert await store.get(OWNER, "resp_1") is None


@pytest.mark.asyncio
async def test_a_migration_is_made_as_a_whole_or_not_at_all(url: str) -> None:
    def fail(_: Any, __: Any, statement: str, *more: Any) -> None:
        if statement.startswith("ALTER TABLE ledger ADD COLUMN segment"):
            raise StoreUnavailable("the last version fails")

    event.listen(Engine, "before_cursor_execute", fail)
    try:
        with pytest.raises(StoreUnavailable, match="the last version"):
            await asyncio.to_thread(upgrade, url)
    finally:
        event.remove(Engine, "before_cursor_execute", fail)
    executor = Address.of(url).executor(30.0, 1)
    assert await executor.run(lambda connection: inspect(connection).get_table_names(), False) == []
    await executor.close()
    await asyncio.to_thread(upgrade, url)


STARTER = """
import asyncio, sys
from gateway.store.store import Store
from translators.operations.stored_responses import end_interrupted

async def main():
    store = Store(sys.argv[1], end_interrupted, timeout=30)
    sys.stdin.readline()
    await store.start()
    print(*(name in sys.modules for name in ("alembic", "pygments")), await store.ping())
    await store.stop()

asyncio.run(main())
"""


def python(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Another process, which can be told to go on."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.asyncio
async def test_processes_that_start_at_once_migrate_once(url: str) -> None:
    processes = [python(STARTER, url) for _ in range(3)]
    answers = await asyncio.gather(*(asyncio.to_thread(process.communicate, "go\n", 60) for process in processes))
    assert [error for _, error in answers] == [""] * 3
    # Nobody loads Pygments, which Mako would, and which stays in memory.
    assert all(answer.endswith("False True\n") for answer, _ in answers)

    # Alembic takes long to import: where there is nothing to migrate nobody does.
    answer, error = await asyncio.to_thread(python(STARTER, url).communicate, "go\n", 60)
    assert (answer, error) == ("False False True\n", "")


@pytest.mark.asyncio
async def test_who_would_migrate_waits_for_who_does(url: str) -> None:
    store = Store(url, end_interrupted, timeout=30.0)
    async with _migrating(url):
        starting = asyncio.create_task(store.start())
        done, _ = await asyncio.wait({starting}, timeout=0.5)
        assert not done
    await starting
    assert await store.save(stored())
    await store.stop()


@contextlib.asynccontextmanager
async def _migrating(url: str) -> AsyncIterator[None]:
    """Holds what a process holds that migrates."""
    path = Address.of(url).path
    if path is not None:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")
        return
    other = await asyncpg.connect(url)
    async with other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
        yield
    await other.close()


@pytest.mark.asyncio
async def test_a_newer_database_is_left_alone(url: str) -> None:
    database = Database(url, 30.0, 1)
    await database.open()
    await database.write(lambda c: c.execute(VERSION.update().values(version_num="9999")))
    await database.close()
    with pytest.raises(StoreUnavailable, match="9999"):
        async with running(url):
            pass


@pytest.mark.asyncio
async def test_a_migration_that_fails_leaves_nothing_behind(url: str) -> None:
    """`runs` comes after `responses`, and here it is in the way."""
    await _execute(url, "CREATE TABLE runs (x INTEGER)")
    store = Store(url, end_interrupted, timeout=30.0)
    with pytest.raises(StoreUnavailable, match="runs"):
        await store.start()
    with pytest.raises(StoreUnavailable):
        await store.save(stored())
    await _execute(url, "CREATE TABLE responses (x INTEGER)")  # it is not there
    for table in ("runs", "responses"):
        await _execute(url, f"DROP TABLE {table}")
    await store.save(stored())
    await store.stop()


async def _execute(url: str, statement: str) -> None:
    path = Address.of(url).path
    if path is not None:
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(statement)
        return
    other = await asyncpg.connect(url)
    await other.execute(statement)
    await other.close()


@pytest.mark.asyncio
async def test_a_file_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "store.db"
    async with running(f"sqlite:///{file}") as store:
        await store.save(stored())
        for created in (file, file.with_name("store.db-wal")):
            assert stat.S_IMODE(created.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.asyncio
async def test_how_sqlite_is_set(file: Path) -> None:
    database = Database(f"sqlite:///{file}", 5.0, 1)
    await database.open()
    settings = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 4000}
    for name, value in settings.items():
        assert await database.read(lambda c, name=name: c.exec_driver_sql(f"PRAGMA {name}").scalar()) == value  # type: ignore[misc]
    await database.close()


# --- a database that does not answer ------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_locked_by_somebody_else(url: str) -> None:
    async with running(url, timeout=3) as store:
        await store.save(stored("resp_before"))
        async with _locked(url):
            begun = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await store.save(stored())
            assert time.monotonic() - begun < WAIT_SECONDS
        assert await store.save(stored())
        assert await store.ping()


@contextlib.asynccontextmanager
async def _locked(url: str) -> AsyncIterator[None]:
    path = Address.of(url).path
    if path is not None:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")
        return
    other = await asyncpg.connect(url)
    async with other.transaction():
        await other.execute("LOCK TABLE responses IN ACCESS EXCLUSIVE MODE")
        yield
    await other.close()


@pytest.mark.asyncio
async def test_a_locked_file_is_not_ready(file: Path) -> None:
    async with running(f"sqlite:///{file}", timeout=3) as store:
        async with _locked(f"sqlite:///{file}"):
            assert not await store.ping()
        assert await store.ping()


@pytest.mark.asyncio
async def test_a_file_that_may_only_be_read(file: Path) -> None:
    async with running(f"sqlite:///{file}") as store:
        await store.save(stored("resp_before"))
    with _altered(file):
        store = Store(f"sqlite:///{file}", end_interrupted, timeout=3)
        await store.start()
        assert not await store.ping()
        with pytest.raises(StoreUnavailable, match="readonly"):
            await store.save(stored())
        assert await store.get(OWNER, "resp_before")
    assert await store.save(stored())
    await store.stop()


@contextlib.contextmanager
def _altered(file: Path) -> Iterator[None]:
    """Byte 18 is the version of the format for writers; SQLite only reads what it is too old to write.

    Permissions would not do: they do not bind root.
    """

    def put(version: int) -> None:
        with file.open("r+b") as opened:
            opened.seek(18)
            opened.write(bytes([version]))

    put(3)
    yield
    put(2)


@pytest.mark.asyncio
async def test_a_full_disk(file: Path) -> None:
    async with running(f"sqlite:///{file}") as store:
        await store.create_conversation(Conversation("conv_1", OWNER, 0, None, b"{}"))
        big = stored(conversation_id="conv_1", body=b"x" * 1_000_000)
        with _no_file_beyond(500_000), pytest.raises(StoreUnavailable):
            await store.save(big, [("msg_1", b"{}")])
        assert await store.get(OWNER, "resp_1") is None
        assert (await store.items(OWNER, "conv_1")).items == []
        assert await store.save(big, [("msg_1", b"{}")])
        assert await store.get(OWNER, "resp_1") == big


@contextlib.contextmanager
def _no_file_beyond(size: int) -> Iterator[None]:
    """The kernel refuses to let any file of this process grow."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.asyncio
async def test_a_file_that_is_gone_is_not_replaced_by_an_empty_one(file: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.db"
    async with running(f"sqlite:///{file}") as store:
        await store.save(stored())
        file.rename(elsewhere)
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await store.get(OWNER, "resp_1")
            assert not await store.ping()
        assert not file.exists()
        elsewhere.rename(file)
        assert await store.get(OWNER, "resp_1")
        assert await store.ping()


@pytest.mark.asyncio
async def test_a_file_that_is_replaced(file: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    async with running(f"sqlite:///{backup}") as store:
        await store.save(stored("resp_old"))
    async with running(f"sqlite:///{file}") as store:
        await store.save(stored("resp_new"))
        backup.rename(file)
        for leftover in ("store.db-wal", "store.db-shm"):
            file.with_name(leftover).unlink()
        assert await store.get(OWNER, "resp_new") is None
        assert await store.get(OWNER, "resp_old")

        file.unlink()
        file.touch()
        assert await store.save(stored("resp_new"))  # its tables were made anew


@pytest.mark.asyncio
async def test_no_database_but_something_else(file: Path) -> None:
    file.write_bytes(b"this is a letter to my aunt, not a database" * 100)
    store = Store(f"sqlite:///{file}", end_interrupted, timeout=30.0)
    with pytest.raises(StoreUnavailable, match="not a database"):
        await store.start()
    for _ in range(3):
        assert not await store.ping()
    if Path("/proc/self/fd").is_dir():  # connections that came to nothing are closed
        assert not [link for link in Path("/proc/self/fd").iterdir() if link.exists() and link.resolve() == file]
    file.unlink()
    assert await store.save(stored())
    await store.stop()


@pytest.mark.asyncio
async def test_a_place_where_no_file_can_be(tmp_path: Path) -> None:
    blocked = tmp_path / "folder"
    blocked.touch()
    store = Store(f"sqlite:///{blocked}/store.db", end_interrupted)
    with pytest.raises(StoreUnavailable):
        await store.start()
    blocked.unlink()
    assert await store.save(stored())
    await store.stop()


class Wire:
    """A wire to PostgreSQL that can be cut, or go silent."""

    def __init__(self, url: str) -> None:
        self._there = make_url(url)
        self._server: asyncio.Server | None = None
        self._port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()

    @property
    def url(self) -> str:
        return self._there.set(host="127.0.0.1", port=self._port).render_as_string(hide_password=False)

    async def join(self) -> None:
        self._flowing.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()
        self._flowing.set()
        await asyncio.sleep(0)

    def silence(self) -> None:
        self._flowing.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(self._there.host, self._there.port or 5432)
        self._writers |= {writer, there[1]}
        await asyncio.gather(self._carry(reader, there[1]), self._carry(there[0], writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest_asyncio.fixture
async def wire(postgresql: str) -> AsyncIterator[Wire]:
    wire = Wire(postgresql)
    await wire.join()
    yield wire
    await wire.cut()


@pytest.mark.asyncio
async def test_a_wire_that_is_cut(wire: Wire) -> None:
    async with running(wire.url) as store:
        await store.save(stored())
        await wire.cut()
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await store.get(OWNER, "resp_1")
            assert not await store.ping()
        await wire.join()
        assert await store.get(OWNER, "resp_1")
        assert await store.ping()


@pytest.mark.asyncio
async def test_a_wire_that_falls_silent(wire: Wire) -> None:
    async with running(wire.url, timeout=3) as store:
        await store.save(stored())
        wire.silence()
        for _ in range(2):
            begun = time.monotonic()
            with pytest.raises(StoreUnavailable, match="in time"):
                await store.save(stored("resp_2"))
            assert time.monotonic() - begun < WAIT_SECONDS
        await wire.join()
        assert await _soon(store.ping)
        assert await store.get(OWNER, "resp_1")


async def _soon(done: Any) -> bool:
    """What was given up may keep its connection for a moment."""
    for _ in range(600):
        if await done():
            return True
        await asyncio.sleep(0.1)
    return False


@pytest.mark.asyncio
async def test_a_database_that_is_down_at_start(wire: Wire) -> None:
    await wire.cut()
    store = Store(wire.url, end_interrupted, timeout=30.0)
    with pytest.raises(StoreUnavailable):
        await store.start()
    with pytest.raises(StoreUnavailable):
        await store.save(stored())
    await wire.join()
    assert await store.save(stored())
    await store.stop()


@pytest.mark.asyncio
async def test_a_server_that_starts_anew_is_not_noticed(postgresql: str) -> None:
    async with running(postgresql) as store, administration() as connection:
        await store.save(stored())
        await connection.fetch(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", name_of(postgresql)
        )
        assert await store.get(OWNER, "resp_1")


@pytest.mark.asyncio
async def test_a_database_that_is_dropped_and_made_anew(postgresql: str) -> None:
    async with running(postgresql) as store, administration() as connection:
        await store.save(stored())
        await connection.execute(f"DROP DATABASE {name_of(postgresql)} WITH (FORCE)")
        with pytest.raises(StoreUnavailable):
            await store.get(OWNER, "resp_1")
        await connection.execute(f"CREATE DATABASE {name_of(postgresql)}")
        assert await store.get(OWNER, "resp_1") is None
        assert await store.save(stored())


@pytest.mark.asyncio
async def test_a_standby_is_not_ready(postgresql: str) -> None:
    async with running(postgresql) as store, administration() as connection:
        for state, ready in (("on", False), ("off", True)):
            await connection.execute(
                f"ALTER DATABASE {name_of(postgresql)} SET default_transaction_read_only = {state}"
            )
            await connection.fetch(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", name_of(postgresql)
            )
            assert await store.ping() is ready


@pytest.mark.asyncio
async def test_a_refusal_names_no_contents(postgresql: str) -> None:
    async with running(postgresql) as store:
        await _execute(postgresql, "DROP TABLE events, runs, responses")
        with pytest.raises(StoreUnavailable) as failed:
            await store.save(stored(body=b"confidential"))
        error: BaseException | None = failed.value
        while error is not None:
            assert "confidential" not in str(error)
            error = error.__cause__


# --- calls that are given up --------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_caller_who_leaves_does_not_stop_what_is_under_way(url: str) -> None:
    async with running(url) as store:
        saves = [asyncio.create_task(store.save(stored(f"resp_{number}"))) for number in range(5)]
        await asyncio.sleep(0)  # they have begun
        for save in saves:
            save.cancel()
        await asyncio.gather(*saves, return_exceptions=True)
    async with running(url) as store:  # the one before has waited for them
        for number in range(5):
            assert await store.get(OWNER, f"resp_{number}")


@pytest.mark.asyncio
async def test_work_that_fails_is_undone(url: str) -> None:
    database = Database(url, 30.0, 1)
    await database.open()

    def fails(connection: Connection) -> None:
        connection.execute(RESPONSES.insert(), msgspec.structs.asdict(stored()))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # a mistake of ours is not taken for one of the database
        await database.write(fails)
    assert await database.read(lambda c: c.scalar(select(RESPONSES.c.id))) is None
    await database.close()


def test_a_thread_that_hangs_is_left_behind(file: Path) -> None:
    """A disk that does not answer: SQLite's thread cannot be stopped, and nobody waits for it."""

    free = threading.Event()

    async def main() -> None:
        store = Store(f"sqlite:///{file}", end_interrupted, timeout=3)
        await store.start()
        database = store._database

        def hangs(connection: Connection) -> None:
            connection.execute(RESPONSES.insert(), msgspec.structs.asdict(stored("resp_late")))
            free.wait()

        try:
            begun = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await database.write(hangs)
            assert time.monotonic() - begun < WAIT_SECONDS
            begun = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await store.save(stored())  # it waits for its turn, and that is bounded as well
            assert time.monotonic() - begun < WAIT_SECONDS
        finally:
            free.set()
        assert await _soon(store.ping)
        assert await store.get(OWNER, "resp_late") is None  # nobody waits any more: it is undone
        await store.stop()

    asyncio.run(main())
