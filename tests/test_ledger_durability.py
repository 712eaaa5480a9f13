"""Rows of the ledger survive: an orderly end, kill -9, a database that is away, read-only or on a full disk.

Real processes, on SQLite and on PostgreSQL. Each call has an id of its own, so that a row that is missing is seen as
well as one that is there twice; and the sums must agree with the rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import signal
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.error import HTTPError

import asyncpg  # type: ignore[import-untyped]
import pytest
from sqlalchemy import Connection, func, make_url, select, update
from websockets.sync.client import connect

from gateway.ledger import writer
from gateway.observability.record import RequestRecord
from gateway.settings.schema import LedgerSettings
from gateway.store.tables import LEDGER_OUTBOX
from support.app import A, Gateway
from support.databases import POSTGRESQL, administration
from support.ledger import ledger_file
from support.process import Process, process
from support.waiting import WAIT_SECONDS
from test_store_database import running
from translators.core.errors import CANCELLED

CALLS = 3
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def at_last(answer: Callable[[], list[Any] | None]) -> list[Any]:
    """The first answer that is one."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (result := answer()) is None:
        assert time.monotonic() < deadline, "the database cannot be read"
        time.sleep(0.05)
    return result


class SqliteLedger:
    """The ledger's file, and what may happen to it while a process uses it."""

    def __init__(self, folder: Path) -> None:
        self.url, self.spool = f"sqlite:///{folder}/gateway.sqlite3", folder / "spool"
        self._file = ledger_file(self.url)
        self.takes_no_spool = False

    def query(self, statement: str) -> list[Any]:
        """The first column; nothing where there is no table yet. While a file is opened or closed, again."""

        def answer() -> list[Any] | None:
            try:
                with contextlib.closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True)) as connection:
                    return [row[0] for row in connection.execute(statement)]
            except sqlite3.OperationalError as error:
                return [] if "no such table" in str(error) or not self._file.exists() else None

        return at_last(answer)

    @contextlib.contextmanager
    def away(self, server: Process) -> Iterator[None]:
        elsewhere = self._file.rename(self._file.with_suffix(".elsewhere"))
        yield
        elsewhere.rename(self._file)

    @contextlib.contextmanager
    def read_only(self, server: Process) -> Iterator[None]:
        """Byte 18 is the version of the format for writers; SQLite only reads what it is too old to write.

        A connection that is open would not notice: one that has failed is replaced.
        """
        with self.full(server):
            call(server, "before-read-only")
            wait_until(lambda: is_put_aside(server))
            with contextlib.closing(sqlite3.connect(self._file)) as connection:
                # While the process looks at the file it is too busy for this. What stayed in the log beside the file
                # would have the old version.
                wait_until(lambda: not connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
            version = self._write_version(b"\x03")
        yield
        self._write_version(version)

    def _write_version(self, version: bytes) -> bytes:
        with self._file.open("r+b") as file:
            file.seek(18)
            before = file.read(1)
            file.seek(18)
            file.write(version)
        return before

    @contextlib.contextmanager
    def full(self, server: Process) -> Iterator[None]:
        """No file of the process may grow any more, the spool included."""
        for pid in server.workers:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        self.takes_no_spool = True
        yield
        self.takes_no_spool = False
        for pid in server.workers:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, UNLIMITED)


class PostgresLedger:
    """The ledger in a database of its own, and what may happen to it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.spool, self.takes_no_spool = url, folder / "spool", False
        self._name = str(make_url(url).database)

    def query(self, statement: str) -> list[Any]:
        """The first column; nothing where there is no table yet. A connection that was ended is made again."""

        async def fetch(connection: Any) -> list[Any]:
            try:
                return [row[0] for row in await connection.fetch(statement)]
            except asyncpg.UndefinedTableError:
                return []

        def answer() -> list[Any] | None:
            try:
                result: list[Any] = self._run(fetch, self.url)
                return result
            except asyncpg.PostgresError:
                return None

        return at_last(answer)

    @contextlib.contextmanager
    def away(self, server: Process) -> Iterator[None]:
        self._alter("ALLOW_CONNECTIONS false")
        yield
        self._alter("ALLOW_CONNECTIONS true")

    @contextlib.contextmanager
    def read_only(self, server: Process) -> Iterator[None]:
        self._alter("SET default_transaction_read_only = on")
        yield
        self._alter("SET default_transaction_read_only = off")

    @contextlib.contextmanager
    def full(self, server: Process) -> Iterator[None]:
        """A trigger says what PostgreSQL says of a full disk."""
        body = "BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = '53100'; END"
        self._execute(f"CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $${body}$$")
        self._execute("CREATE TRIGGER full_disk BEFORE INSERT ON ledger_sums EXECUTE FUNCTION full_disk()")
        yield
        self._execute("DROP FUNCTION full_disk() CASCADE")

    def _alter(self, change: str) -> None:
        terminate = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1"

        async def alter(connection: Any) -> None:
            await connection.execute(f"ALTER DATABASE {self._name} {change}")
            await connection.execute(terminate, self._name)

        self._run(alter, POSTGRESQL)

    def _execute(self, statement: str) -> None:
        self._run(lambda connection: connection.execute(statement), self.url)

    def _run(self, work: Callable[[Any], Awaitable[Any]], url: str) -> Any:
        async def run() -> Any:
            connection = await asyncpg.connect(url, timeout=WAIT_SECONDS)
            try:
                return await work(connection)
            finally:
                await connection.close()

        return asyncio.run(run())


Ledger = SqliteLedger | PostgresLedger


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    if request.param == "sqlite":
        yield SqliteLedger(tmp_path)
        return
    name = f"ledger_{uuid.uuid4().hex[:12]}"

    async def run(statement: str) -> None:
        async with administration() as connection:
            await connection.execute(statement)

    asyncio.run(run(f"CREATE DATABASE {name}"))
    try:
        yield PostgresLedger(make_url(POSTGRESQL).set(database=name).render_as_string(hide_password=False), tmp_path)
    finally:
        asyncio.run(run(f"DROP DATABASE {name} WITH (FORCE)"))


def wait_until(condition: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


def spooled(folder: Path) -> int:
    """Lines in all spool files."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*.spool"))


def call(server: Process, id: str) -> None:
    assert b" 200 " in server.chat(identity=id).partition(b"\r\n")[0], id


def calls(server: Process, name: str) -> list[str]:
    ids = [f"{name}-{number}" for number in range(CALLS)]
    for id in ids:
        call(server, id)
    return ids


def is_put_aside(server: Process) -> bool:
    """The process says that rows cannot be written."""
    try:
        readiness = server.get("/health/ready")
    except HTTPError as error:
        readiness = error.read()
    return b"database does not take rows" in readiness


def check(ledger: Ledger, ids: list[str]) -> None:
    """Each call has its row, once, and the sums count as many."""
    wait_until(lambda: set(ids) <= set(ledger.query("SELECT request_id FROM ledger")))
    counts = Counter(ledger.query("SELECT request_id FROM ledger"))
    assert {id: counts[id] for id in ids} == dict.fromkeys(ids, 1)
    # In one statement: rows of other calls may be written at any moment.
    counted = "SELECT sum(calls) FROM ledger_sums WHERE scope = 0 AND seconds = 3600"
    assert ledger.query(f"SELECT (SELECT count(*) FROM ledger) - ({counted})") == [0]  # noqa: S608


def ask(server: Process, method: str, path: str, body: Any = None, **headers: str) -> Any:
    """Returns the body of an answer."""
    gateway = Gateway(server.url, "", log=None, key="anything")  # type: ignore[arg-type]
    answer = gateway.ask(method, path, body, {"content-type": "application/json", **headers})
    assert answer.status == 200, answer.body
    return answer.body


def begin_in_background(server: Process, identity: str, text: str) -> str:
    """Returns the id of the response."""
    body = {"model": A, "input": text, "background": True}
    return str(ask(server, "POST", "/v1/responses", body, **{"x-request-id": identity})["id"])


def with_storage(ledger: Ledger, work: Callable[[Connection], Any]) -> Any:
    """Does something in the database of the responses, which on SQLite is not the ledger's."""

    async def run() -> Any:
        async with running(ledger.url) as store:
            return await store._database.write(work)

    return asyncio.run(run())


def pass_lease(connection: Connection) -> None:
    """As if the time of a lease had passed."""
    connection.execute(update(LEDGER_OUTBOX).values(due=1.0))


def count_outbox(connection: Connection) -> int:
    return connection.scalar(select(func.count()).select_from(LEDGER_OUTBOX)) or 0


def settings(ledger: Ledger, **more: str) -> dict[str, str]:
    common = {"GATEWAY_DATABASE_URL": ledger.url, "GATEWAY_LEDGER_SPOOL": str(ledger.spool)}
    return {**common, "GATEWAY_LEDGER_FLUSH_SECONDS": "0.05", **more}


def test_no_row_is_lost_and_none_is_there_twice(ledger: Ledger) -> None:
    with process("--demo", **settings(ledger)) as server:
        ids = calls(server, "plain")
        check(ledger, ids)
        for name in ("away", "read_only", "full"):
            with getattr(ledger, name)(server):
                ids += calls(server, name)
                wait_until(lambda: spooled(ledger.spool) >= CALLS or ledger.takes_no_spool)
                wait_until(lambda: is_put_aside(server))
            check(ledger, ids)
        with ledger.away(server):
            ids += calls(server, "killed-while-away")
            wait_until(lambda: spooled(ledger.spool) >= CALLS)
            server.signal(signal.SIGKILL, group=True)
            server.ends()
    with process("--demo", **settings(ledger, GATEWAY_LEDGER_SYNC="true")) as server:
        check(ledger, ids)  # taken up by the next process
        ids += calls(server, "sync")
        server.signal(signal.SIGKILL, group=True)  # at once: nothing is waited for
        server.ends()
        check(ledger, ids)
    with process("--demo", **settings(ledger, GATEWAY_LEDGER_FLUSH_SECONDS="60")) as server:
        ids += calls(server, "stopped")
        server.signal(signal.SIGTERM)
        assert server.ends() == 0
    check(ledger, ids)
    assert not spooled(ledger.spool)


@pytest.mark.asyncio
async def test_the_first_rows_wait_for_their_interval_as_later_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that has not opened its database yet is not awake each moment to look for old rows in it."""
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.001)
    ledger = writer.Ledger(LedgerSettings(flush_seconds=60), f"sqlite:///{tmp_path}/gateway.sqlite3", Mock())
    ledger.start()
    ledger.record(RequestRecord("req", "POST", "/v1/chat/completions", 0.0), 0.1)
    await asyncio.sleep(0.2)
    assert ledger.waiting_rows() == 1
    await ledger.stop()
    assert ledger.waiting_rows() == 0


def test_killed_in_the_midst_of_calls_a_process_loses_the_last_of_them_and_no_other(ledger: Ledger) -> None:
    """Rows are written in the order in which their calls ended: what is lost is a run at the end, and nothing twice.

    That it is no more than one interval's is seen by waiting for one: what was answered before that is there.
    """
    with process("--demo", **settings(ledger, GATEWAY_LEDGER_FLUSH_SECONDS="0.3")) as server:
        call(server, "opens-the-database")
        check(ledger, ["opens-the-database"])
        before = calls(server, "before")
        wait_until(lambda: set(before) <= set(ledger.query("SELECT request_id FROM ledger")))
        during: list[str] = []
        while len(during) < 10 or not set(during) & set(ledger.query("SELECT request_id FROM ledger")):
            during.append(f"during-{len(during)}")
            call(server, during[-1])
        server.signal(signal.SIGKILL, group=True)
        server.ends()
    with process("--demo", **settings(ledger)) as server:
        call(server, "after")
        check(ledger, [*before, "after"])
        present = set(ledger.query("SELECT request_id FROM ledger"))
        written = [id in present for id in during]
        assert written == sorted(written, reverse=True) and any(written), written
        check(ledger, [id for id in during if id in present])


def test_no_response_in_the_background_is_without_its_row(ledger: Ledger) -> None:
    """Its process is killed between its end and its row: another process writes the row, with its cost, once.

    So it is where the response was deleted while it was worked on.
    """
    with process("--demo", **settings(ledger, GATEWAY_LEDGER_FLUSH_SECONDS="60")) as server:
        ended = begin_in_background(server, "ended", "Hello")
        wait_until(lambda: ask(server, "GET", f"/v1/responses/{ended}")["status"] == "completed")
        deleted = begin_in_background(server, "deleted", "Hello [x-emulator-fault: late=60]")
        assert ask(server, "DELETE", f"/v1/responses/{deleted}")["deleted"]
        server.signal(signal.SIGKILL, group=True)
        server.ends()
    assert not ledger.query("SELECT id FROM ledger WHERE request_id IN ('ended', 'deleted')")
    with_storage(ledger, pass_lease)
    with process("--demo", **settings(ledger)) as server:
        check(ledger, ["ended", "deleted"])
        assert ledger.query("SELECT status FROM ledger WHERE request_id = 'ended' AND cost > 0") == [200]
        assert ledger.query("SELECT status FROM ledger WHERE request_id = 'deleted'") == [CANCELLED.status]
        # Of a process that lives nothing is left to be written again.
        begin_in_background(server, "lives", "Hello")
        check(ledger, ["ended", "deleted", "lives"])
        wait_until(lambda: not with_storage(ledger, count_outbox))


@pytest.mark.asyncio
async def test_rows_that_may_be_there_go_to_no_spool_file(tmp_path: Path) -> None:
    """Who has them keeps them: a row of a spool file is not looked for by its id alone."""
    settings, nowhere = LedgerSettings(spool=str(tmp_path / "spool")), "sqlite:////proc/nothing/gateway.sqlite3"
    ledger = writer.Ledger(settings, nowhere, Mock())
    ledger.start()
    try:
        row = ledger.row_in_advance(RequestRecord("req", "POST", "/v1/responses", 0.0, id="0" * 24))
        assert not await ledger.write_rows([row]) and not await ledger.write_rows([row, row])
        assert ledger.waiting_rows() == spooled(tmp_path / "spool") == 0
    finally:
        await ledger.stop()


def test_calls_are_refused_while_rows_cannot_be_written(ledger: Ledger) -> None:
    """With `on_failure = refuse`: a 503 with a code of its own, until the database is back; and no row is missing."""
    with process("--demo", **settings(ledger, GATEWAY_LEDGER_ON_FAILURE="refuse")) as server:
        ids = calls(server, "plain")
        check(ledger, ids)
        with ledger.away(server):
            call(server, "unwritten")  # nobody knows yet
            wait_until(lambda: is_put_aside(server))
            refused = server.chat(identity="refused")
            assert b" 503 " in refused.partition(b"\r\n")[0] and b'"ledger_unavailable"' in refused
        wait_until(lambda: not is_put_aside(server))
        call(server, "served-again")
        check(ledger, [*ids, "unwritten", "refused", "served-again"])


def test_the_last_message_on_a_websocket_waits_for_its_row(ledger: Ledger) -> None:
    with process("--demo", **settings(ledger, GATEWAY_LEDGER_SYNC="true")) as server:
        for number in range(CALLS):
            url = server.url.replace("http", "ws", 1) + "/v1/responses"
            with connect(url, additional_headers={"x-request-id": f"socket-{number}"}, proxy=None) as socket:
                socket.send(json.dumps({"type": "response.create", "model": A, "input": "Hello"}))
                while json.loads(socket.recv(WAIT_SECONDS))["type"] != "response.completed":
                    pass
                # At once: nothing is waited for.
                assert ledger.query(f"SELECT request_id FROM ledger WHERE request_id = 'socket-{number}.1'")  # noqa: S608
        server.signal(signal.SIGKILL, group=True)
        server.ends()
    check(ledger, [f"socket-{number}.1" for number in range(CALLS)])
