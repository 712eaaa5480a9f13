"""Access to the database: connections, transactions, time limits, and recovery after a failure.

The queries are in `responses.py` and `conversations.py`: functions of one connection, which `read` and `write` run in
a transaction. They are written as if connections blocked, and block nobody: on SQLite a thread runs a transaction as a
whole, so that there is one switch to the thread and one back; on PostgreSQL SQLAlchemy runs it in a greenlet.

A database that failed is inspected before the next transaction: it may be another one, without tables. One that
vanished is never replaced by an empty one, which would answer 404 for responses that were stored.
"""

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from msgspec import Struct
from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, select
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gateway.store.errors import StoreUnavailable
from gateway.store.migrations import migrate
from gateway.store.tables import HEAD, VERSION

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

MIGRATION_SECONDS = 60.0
"""How long another process may take to migrate the database that this one waits for."""

BUSY_SHARE = 0.8
"""SQLite gives up waiting for a lock after this share of a call's time, so that its thread is free again by then."""

MISTAKES = ("22", "23")
"""What the SQLSTATE begins with where values are wrong, which PostgreSQL's driver may say without SQLAlchemy."""

GRACE_SECONDS = 1.0
"""A call that is over its time and does not stop is abandoned after so many more seconds."""

_PRAGMAS = (
    # Readers go on while somebody writes. The mode belongs to the file: where it is set already this does nothing.
    "PRAGMA journal_mode=WAL",
    # A commit is on the disk when it returns: a caller who saw a response finds it again after a crash.
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
)

_FAST_PRAGMAS = (*_PRAGMAS, "PRAGMA synchronous=NORMAL")
"""A commit is safe when this process dies, and reaches the disk a little later."""

Result = TypeVar("Result")
Work = Callable[[Connection], Result]


class Address(Struct, frozen=True):
    """The place of a database. path: SQLite's file; None for PostgreSQL."""

    url: URL
    path: Path | None

    @staticmethod
    def of(text: str) -> "Address":
        """Parses a URL. Raises ValueError, whose sentence does not repeat the password."""
        try:
            url = make_url(text)
        except ArgumentError as error:
            raise ValueError("not a URL such as sqlite:///gateway.db or postgresql://user@host/name") from error
        match url.drivername:
            # Also by drivers that others name: which one is used is chosen here.
            case "sqlite" | "sqlite+aiosqlite":
                if not url.database or url.database.startswith((":memory:", "file:")) or url.query or url.host:
                    raise ValueError("SQLite wants a file and nothing else: sqlite:///relative.db, sqlite:////abs.db")
                return Address(url.set(drivername="sqlite"), Path(url.database))
            case "postgresql" | "postgres" | "postgresql+asyncpg":
                return Address(url.set(drivername="postgresql"), None)
        raise ValueError(f"'{url.drivername}' is not supported: sqlite or postgresql")

    def prepare(self) -> None:
        """Creates SQLite's file and its directory, for their owner alone. Raises OSError."""
        if self.path is not None and not self.path.exists():
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))

    def identity(self) -> tuple[int, int] | None:
        """Returns the device and inode that SQLite's path names at present. Raises FileNotFoundError."""
        if self.path is None:
            return None
        status = os.stat(self.path)
        return status.st_dev, status.st_ino

    def executor(self, timeout: float, pool_size: int, durable: bool = True) -> "Executor":
        """Returns an executor that has not connected yet. timeout: seconds. durable: as for Database."""
        # Further calls wait for one of these connections, no longer than a call may take.
        bounds: dict[str, Any] = {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": timeout}
        if self.path is not None:
            # isolation_level None: the driver begins no transactions of its own; _begin does.
            connect: dict[str, Any] = {"timeout": timeout * BUSY_SHARE, "isolation_level": None}
            # `hide_parameters`: errors go to the log, and parameters are callers' words.
            engine = create_engine(self.url, connect_args=connect, hide_parameters=True, **bounds)
            event.listen(engine, "connect", _apply_pragmas if durable else _apply_fast_pragmas)
            event.listen(engine, "begin", _begin)
            return SqliteExecutor(engine, pool_size)
        # Imported here: it takes seven megabytes, as all of SQLAlchemy's mapping of objects comes with it.
        from sqlalchemy.ext.asyncio import create_async_engine

        # asyncpg reads the URL itself: it knows sslmode and the rest of libpq's words, which SQLAlchemy does not.
        connect = {
            "dsn": self.url.render_as_string(hide_password=False),
            "timeout": timeout,
            "command_timeout": timeout,
        }
        return PostgresExecutor(
            create_async_engine(
                "postgresql+asyncpg://", connect_args=connect, hide_parameters=True, pool_pre_ping=durable, **bounds
            )
        )


def _apply_pragmas(connection: Any, record: object) -> None:
    _apply(connection, _PRAGMAS)


def _apply_fast_pragmas(connection: Any, record: object) -> None:
    _apply(connection, _FAST_PRAGMAS)


def _apply(connection: Any, pragmas: Sequence[str]) -> None:
    try:
        if not connection.execute("PRAGMA page_count").fetchone()[0]:
            # A file that begins so can give back the pages of what was deleted (`ledger.delete_old`).
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        for pragma in pragmas:
            connection.execute(pragma)
    except BaseException:
        connection.close()  # the pool drops it without closing it
        raise


def _begin(connection: Connection) -> None:
    # A writer takes the lock at once: a reader that begins to write is refused when somebody wrote meanwhile, and no
    # waiting helps it. A read of one statement needs no transaction.
    if connection.get_execution_options().get("writes"):
        driver: Any = connection.connection.dbapi_connection
        driver.execute("BEGIN IMMEDIATE")


class Executor(Protocol):
    """Runs transactions. When `run` is cancelled, nothing is committed that was not committed yet."""

    async def run(self, work: Work[Result], writes: bool) -> Result: ...

    async def reset(self) -> None:
        """Closes the idle connections, and each other one when it is next idle."""
        ...

    async def close(self) -> None: ...


class SqliteExecutor:
    """Runs whole transactions in threads, because SQLite blocks."""

    def __init__(self, engine: Engine, size: int) -> None:
        self._engine, self._writing = engine, engine.execution_options(writes=True)
        # As many as there are connections.
        self._threads = ThreadPoolExecutor(size, "sqlite")

    async def run(self, work: Work[Result], writes: bool) -> Result:
        abandoned = threading.Event()
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self._transaction, work, writes, abandoned
            )
        except asyncio.CancelledError:
            abandoned.set()
            raise

    def _transaction(self, work: Work[Result], writes: bool, abandoned: threading.Event) -> Result:
        pool = self._engine.pool
        with (self._writing if writes else self._engine).connect() as connection:
            result = work(connection)
            if writes and not abandoned.is_set():
                connection.commit()
            if self._engine.pool is not pool:
                connection.invalidate()  # `reset` closed the others meanwhile; nobody else closes this one
            return result

    async def reset(self) -> None:
        await asyncio.to_thread(self._engine.dispose)

    async def close(self) -> None:
        # A thread that hangs in SQLite is not to hold up the end.
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self.reset()


class PostgresExecutor:
    """Runs transactions in greenlets, because PostgreSQL's driver waits without blocking."""

    def __init__(self, engine: "AsyncEngine") -> None:
        self._engine = engine
        # Reads need no BEGIN and ROLLBACK, which are a round trip each.
        self._reading = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def run(self, work: Work[Result], writes: bool) -> Result:
        async with (self._engine if writes else self._reading).connect() as connection:
            try:
                result = await connection.run_sync(work)
                if writes:
                    await connection.commit()
            except asyncio.CancelledError:
                await connection.invalidate()  # the server may still be working for it
                raise
            return result

    async def reset(self) -> None:
        """Does nothing: each connection is tested before it is used (pool_pre_ping)."""

    async def close(self) -> None:
        await self._engine.dispose()


def upgrade(url: str) -> None:
    """Brings a database to the newest version, creating what is missing. Runs an event loop of its own.

    Raises StoreUnavailable, and ValueError for a bad URL.
    """
    address = Address.of(url)
    with translate_errors(driver_errors(address)):
        address.prepare()
        asyncio.run(_upgrade(address))


async def _upgrade(address: Address) -> None:
    executor = address.executor(MIGRATION_SECONDS, 1)
    try:
        await executor.run(migrate, True)
    finally:
        await executor.close()


@contextlib.contextmanager
def translate_errors(errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Raises StoreUnavailable for these errors and for TimeoutError. A mistake of ours stays what it is."""
    try:
        yield
    except (IntegrityError, DataError):
        raise
    except TimeoutError as error:
        raise StoreUnavailable("the database did not answer in time") from error
    except errors as error:
        # The driver's own error. SQLAlchemy's text has the statement in it.
        cause = getattr(error, "orig", None) or error
        if str(getattr(cause, "sqlstate", "")).startswith(MISTAKES):
            raise
        raise StoreUnavailable(f"the database failed: {type(cause).__name__}: {cause}") from error


def driver_errors(address: Address) -> tuple[type[Exception], ...]:
    """Returns the errors of a failing database. While connecting they come from the driver, not from SQLAlchemy."""
    if address.path is not None:
        return DBAPIError, PoolTimeout, OSError, sqlite3.Error
    import asyncpg  # type: ignore[import-untyped]

    return DBAPIError, PoolTimeout, OSError, asyncpg.PostgresError, asyncpg.InterfaceError


class Database:
    """Runs work in transactions. Belongs to the event loop that it is first used in.

    durable: a commit is on the disk when it returns. For counters that is False: a commit then survives the process
    and perhaps not the machine, and PostgreSQL's connections are not tested before each use, a round trip less.
    """

    def __init__(self, url: str, timeout: float, pool_size: int, durable: bool = True) -> None:
        self._address, self._timeout = Address.of(url), timeout
        self._url = url
        self._executor = self._address.executor(timeout, pool_size, durable)
        # SQLite has one writer at a time, and the others poll for the lock. Inside this process they queue.
        self._write_lock = asyncio.Lock() if self._address.path is not None else contextlib.nullcontext()
        self._errors = driver_errors(self._address)
        # Inspected, and not failed since. Writing has a flag of its own, because reads of a read-only file succeed, and
        # only a new connection can tell that it may be written again.
        self._readable = self._writable = False
        # Of SQLite's file when it was inspected: another file of this name is another database.
        self._identity: tuple[int, int] | None = None
        self._inspection: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[Any]] = set()

    @property
    def is_postgresql(self) -> bool:
        return self._address.path is None

    @property
    def is_open(self) -> bool:
        """The database has been used, and has not failed since."""
        return self._readable

    async def open(self) -> None:
        """Creates what is missing. Raises StoreUnavailable, after which every call tries again."""
        with translate_errors(self._errors):
            await self._ready(True)

    async def close(self) -> None:
        """Waits for the calls under way, no longer than they may take."""
        if self._inspection is not None:
            self._inspection.cancel()
        if self._calls:
            await asyncio.wait(self._calls, timeout=self._timeout)
        # A task, since closing may wait for what does not stop.
        closing = asyncio.create_task(self._executor.close())
        await asyncio.wait({closing}, timeout=GRACE_SECONDS)
        closing.cancel()
        self._readable = self._writable = False

    async def read(self, work: Work[Result]) -> Result:
        """Returns the result of work that changes nothing. Raises StoreUnavailable."""
        return await self._call(self._read(work))

    async def write(self, work: Work[Result]) -> Result:
        """Returns the result of work that is done as a whole or not at all. Raises StoreUnavailable.

        When the time was over, the work may be done all the same: nobody can know.
        """
        return await self._call(self._write(work))

    async def _call(self, call: Coroutine[Any, Any, Result]) -> Result:
        """Waits no longer than allowed, even for what cannot be stopped: a thread, a silent connection.

        A caller who leaves does not stop the call, which has a time limit of its own: tearing down a connection costs
        the next call more than letting this one finish.
        """
        task = asyncio.create_task(call)
        # Nobody else keeps a call whose caller has left, and `close` waits for it.
        self._calls.add(task)
        task.add_done_callback(self._finished)
        done, _ = await asyncio.wait({task}, timeout=self._timeout + GRACE_SECONDS)
        if not done:
            self._readable = self._writable = False
            raise StoreUnavailable("the database did not answer in time, and does not stop")
        return task.result()

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not log an exception whose caller has left

    async def _read(self, work: Work[Result]) -> Result:
        async with self._within_limits(False):
            return await self._executor.run(work, False)

    async def _write(self, work: Work[Result]) -> Result:
        async with self._within_limits(True), self._write_lock:
            return await self._executor.run(work, True)

    @contextlib.asynccontextmanager
    async def _within_limits(self, writes: bool) -> AsyncIterator[None]:
        try:
            with translate_errors(self._errors):
                async with asyncio.timeout(self._timeout):
                    await self._ready(writes)
                    yield
        except StoreUnavailable:
            # Inspected before the next transaction: it may be another database then.
            self._readable = self._writable = False
            raise

    async def _ready(self, writes: bool) -> None:
        if (self._writable if writes else self._readable) and self._identity == self._address.identity():
            return
        if self._inspection is None:
            self._inspection = asyncio.create_task(self._inspect())
            self._inspection.add_done_callback(self._inspected)
        await asyncio.shield(self._inspection)  # others wait for it as well, and perhaps longer
        self._writable = self._writable or writes

    def _inspected(self, task: asyncio.Task[None]) -> None:
        self._inspection = None
        if not task.cancelled():
            task.exception()

    async def _inspect(self) -> None:
        """Makes sure that there is a database of this version behind the URL; migrates it if it is older."""
        address = self._address
        if self._identity is not None:
            address.identity()  # raises if the file is gone
        await asyncio.to_thread(address.prepare)
        await self._executor.reset()  # connections may lead to a file that has lost this name
        async with asyncio.timeout(self._timeout):
            version = await self._executor.run(_version, False)
        if version != HEAD:
            # Over a connection of its own, which has more time than a call.
            await asyncio.to_thread(upgrade, self._url)
        self._identity = address.identity()
        self._readable = True


def _version(connection: Connection) -> str | None:
    # A new database has no such table, and to read it would be an error.
    if not inspect(connection).has_table(VERSION.name):
        return None
    return connection.scalar(select(VERSION.c.version_num))
