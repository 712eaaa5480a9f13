"""The way to the database: connections, transactions, bounds on time, and coming back after a failure.

What is asked of the database is in `responses.py` and `conversations.py`: functions of one connection, which `read`
and `write` run in a transaction. They are written as if connections blocked, and block nobody: on SQLite a transaction
is run in a thread as a whole, one journey there and back; on PostgreSQL SQLAlchemy runs it in a greenlet.

A database that fails is looked at anew before the next transaction: it may be another one, without tables. One that
vanished is never replaced by an empty one, which would answer 404 for what was promised to be kept.
"""

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from msgspec import Struct
from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, select
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway.store.errors import StoreUnavailable
from gateway.store.migrations import migrate
from gateway.store.tables import HEAD, VERSION

MIGRATION_SECONDS = 60.0
"""How long another process may take to migrate the database that this one waits for."""

BUSY_SHARE = 0.8
"""SQLite gives up waiting for a lock after this share of a call's time, so that its thread is free again by then."""

GRACE_SECONDS = 1.0
"""A call that was told to stop and does not is left behind after this."""

_PRAGMAS = (
    # Readers go on while somebody writes. The mode is the file's: where it is set already this does nothing.
    "PRAGMA journal_mode=WAL",
    # A commit is on the disk when it returns: a caller who saw a response finds it after a crash.
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
)

Result = TypeVar("Result")
Work = Callable[[Connection], Result]


class Address(Struct, frozen=True):
    """Where a database is. `path`: of SQLite's file."""

    url: URL
    path: Path | None

    @staticmethod
    def of(text: str) -> "Address":
        """Raises ValueError, whose sentence does not repeat the password."""
        try:
            url = make_url(text)
        except ArgumentError as error:
            raise ValueError("not a URL such as sqlite:///gateway.db or postgresql://user@host/name") from error
        match url.drivername:
            case "sqlite" | "sqlite+aiosqlite":
                if not url.database or url.database.startswith((":memory:", "file:")) or url.query or url.host:
                    raise ValueError("SQLite wants a file and nothing else: sqlite:///relative.db, sqlite:////abs.db")
                return Address(url.set(drivername="sqlite"), Path(url.database))
            case "postgresql" | "postgres" | "postgresql+asyncpg":
                return Address(url.set(drivername="postgresql"), None)
        raise ValueError(f"'{url.drivername}' is not supported: sqlite or postgresql")

    def prepare(self) -> None:
        """Makes SQLite's file and its directory, which others than the owner have no business in. Raises OSError."""
        if self.path is not None and not self.path.exists():
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))

    def identity(self) -> tuple[int, int] | None:
        """Which file SQLite's path names at present. Raises FileNotFoundError."""
        if self.path is None:
            return None
        status = os.stat(self.path)
        return status.st_dev, status.st_ino

    def way(self, timeout: float, pool_size: int) -> "Way":
        """Connects to nothing yet."""
        bounds: dict[str, Any] = {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": timeout}
        if self.path is not None:
            # isolation_level: the driver is not to begin transactions of its own; _begin does.
            connect: dict[str, Any] = {"timeout": timeout * BUSY_SHARE, "isolation_level": None}
            engine = create_engine(self.url, connect_args=connect, hide_parameters=True, **bounds)
            event.listen(engine, "connect", _set_up)
            event.listen(engine, "begin", _begin)
            return InThreads(engine, pool_size)
        # asyncpg reads the URL itself: it knows sslmode and the rest of libpq's words, which SQLAlchemy does not.
        connect = {
            "dsn": self.url.render_as_string(hide_password=False),
            "timeout": timeout,
            "command_timeout": timeout,
        }
        return InGreenlets(
            create_async_engine(
                "postgresql+asyncpg://", connect_args=connect, hide_parameters=True, pool_pre_ping=True, **bounds
            )
        )


def _set_up(connection: Any, record: object) -> None:
    try:
        for pragma in _PRAGMAS:
            connection.execute(pragma)
    except BaseException:
        connection.close()  # the pool forgets it without closing it
        raise


def _begin(connection: Connection) -> None:
    # Who will write says so at once. A reader that starts to write is refused when somebody wrote meanwhile, and no
    # waiting helps it. A read of one statement needs no transaction.
    if connection.get_execution_options().get("writes"):
        driver: Any = connection.connection.dbapi_connection
        driver.execute("BEGIN IMMEDIATE")


class Way(Protocol):
    """How transactions get to a database. `run` may be cancelled: then nothing is committed that was not yet."""

    async def run(self, work: Work[Result], writes: bool) -> Result: ...

    async def reset(self) -> None:
        """Closes the connections that are idle, and each other one when it is next idle."""
        ...

    async def close(self) -> None: ...


class InThreads:
    """To SQLite, which blocks: a thread runs a whole transaction."""

    def __init__(self, engine: Engine, size: int) -> None:
        self._engine, self._writing = engine, engine.execution_options(writes=True)
        self._threads = ThreadPoolExecutor(size, "sqlite")

    async def run(self, work: Work[Result], writes: bool) -> Result:
        given_up = threading.Event()
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self._transaction, work, writes, given_up
            )
        except asyncio.CancelledError:
            given_up.set()
            raise

    def _transaction(self, work: Work[Result], writes: bool, given_up: threading.Event) -> Result:
        pool = self._engine.pool
        with (self._writing if writes else self._engine).connect() as connection:
            result = work(connection)
            if writes and not given_up.is_set():
                connection.commit()
            if self._engine.pool is not pool:
                connection.invalidate()  # the others were closed meanwhile (reset); nobody else closes this one
            return result

    async def reset(self) -> None:
        await asyncio.to_thread(self._engine.dispose)

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self.reset()


class InGreenlets:
    """To PostgreSQL, whose driver waits without blocking."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        # Reads need no BEGIN and ROLLBACK, which are a journey each.
        self._reading = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def run(self, work: Work[Result], writes: bool) -> Result:
        async with (self._engine if writes else self._reading).connect() as connection:
            try:
                result = await connection.run_sync(work)
                if writes:
                    await connection.commit()
            except asyncio.CancelledError:
                await connection.invalidate()  # the server may still be at work for it
                raise
            return result

    async def reset(self) -> None:
        """Each connection is looked at before it is used (pool_pre_ping)."""

    async def close(self) -> None:
        await self._engine.dispose()


def upgrade(url: str) -> None:
    """Brings a database to the newest version, tables and all. Not for a running event loop: it runs its own.

    Raises StoreUnavailable, and ValueError for a URL that is none.
    """
    address = Address.of(url)
    with told(_driver_failures(address)):
        address.prepare()
        asyncio.run(_upgrade(address))


async def _upgrade(address: Address) -> None:
    way = address.way(MIGRATION_SECONDS, 1)
    try:
        await way.run(migrate, True)
    finally:
        await way.close()


@contextlib.contextmanager
def told(failures: tuple[type[Exception], ...]) -> Iterator[None]:
    """Whatever a driver, the system or the clock says becomes StoreUnavailable; a mistake of ours stays one."""
    try:
        yield
    except (IntegrityError, DataError):
        raise
    except TimeoutError as error:
        raise StoreUnavailable("the database did not answer in time") from error
    except failures as error:
        cause = getattr(error, "orig", None) or error
        raise StoreUnavailable(f"the database failed: {type(cause).__name__}: {cause}") from error


def _driver_failures(address: Address) -> tuple[type[Exception], ...]:
    """What is raised while connecting comes from the driver as it is, not wrapped by SQLAlchemy."""
    if address.path is not None:
        return DBAPIError, PoolTimeout, OSError, sqlite3.Error
    import asyncpg  # type: ignore[import-untyped]

    return DBAPIError, PoolTimeout, OSError, asyncpg.PostgresError, asyncpg.InterfaceError


class Database:
    """Runs work in transactions. Belongs to the event loop that it is first used in."""

    def __init__(self, url: str, timeout: float, pool_size: int) -> None:
        self._address, self._timeout = Address.of(url), timeout
        self._url = url
        self._way = self._address.way(timeout, pool_size)
        # SQLite has one writer at a time and lets the others try again after naps. Inside this process they queue.
        self._turn = asyncio.Lock() if self._address.path is not None else contextlib.nullcontext()
        self._failures = _driver_failures(self._address)
        # Looked at, and not failed since; for writing apart, because a read of a file that may only be read does not
        # tell that it may be written again, and only a new connection can.
        self._readable = self._writable = False
        self._identity: tuple[int, int] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Makes what is missing. Raises StoreUnavailable, after which every call tries again."""
        with told(self._failures):
            await self._ready(True)

    async def close(self) -> None:
        """Waits for the calls under way, no longer than they may take."""
        if self._looking is not None:
            self._looking.cancel()
        if self._calls:
            await asyncio.wait(self._calls, timeout=self._timeout)
        closing = asyncio.create_task(self._way.close())
        await asyncio.wait({closing}, timeout=GRACE_SECONDS)
        closing.cancel()
        self._readable = self._writable = False

    async def read(self, work: Work[Result]) -> Result:
        """The result of work that changes nothing. Raises StoreUnavailable."""
        return await self._call(self._read(work))

    async def write(self, work: Work[Result]) -> Result:
        """The result of work that is done as a whole or not at all. Raises StoreUnavailable.

        When this is raised for want of time the work may still be done: nobody can know.
        """
        return await self._call(self._write(work))

    async def _call(self, call: Coroutine[Any, Any, Result]) -> Result:
        """Waits no longer than allowed, even for what cannot be stopped: a thread, a connection gone silent.

        A caller who leaves does not stop the call, which has a bound of its own: tearing down a connection costs
        the next one more than letting it finish.
        """
        task = asyncio.create_task(call)
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
            task.exception()  # looked at, so that nobody is told of an exception whose caller has left

    async def _read(self, work: Work[Result]) -> Result:
        async with self._bounds(False):
            return await self._way.run(work, False)

    async def _write(self, work: Work[Result]) -> Result:
        async with self._bounds(True), self._turn:
            return await self._way.run(work, True)

    @contextlib.asynccontextmanager
    async def _bounds(self, writes: bool) -> AsyncIterator[None]:
        try:
            with told(self._failures):
                async with asyncio.timeout(self._timeout):
                    await self._ready(writes)
                    yield
        except StoreUnavailable:
            self._readable = self._writable = False
            raise

    async def _ready(self, writes: bool) -> None:
        if (self._writable if writes else self._readable) and self._identity == self._address.identity():
            return
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(self._looked)
        await asyncio.shield(self._looking)  # others wait for it, too, and longer than this call may
        self._writable = self._writable or writes

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if not task.cancelled():
            task.exception()

    async def _look(self) -> None:
        """Finds a database of this version behind the URL, or makes it one."""
        address = self._address
        if self._identity is not None:
            address.identity()  # raises where the file is gone
        await asyncio.to_thread(address.prepare)
        await self._way.reset()  # connections to a file that is no longer the one of this name
        async with asyncio.timeout(self._timeout):
            version = await self._way.run(_version, False)
        if version != HEAD:
            await asyncio.to_thread(upgrade, self._url)
        self._identity = address.identity()
        self._readable = True


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION.name):
        return None
    return connection.scalar(select(VERSION.c.version_num))
