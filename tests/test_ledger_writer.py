"""The writer of the ledger by itself: where rows wait, how old the oldest is, and which are counted as lost.

What real processes do when they are killed, or when the database is away, is in test_ledger_durability.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from msgspec.structs import replace

from gateway.auth.credentials import Credential
from gateway.auth.principal import NOBODY, Principal
from gateway.ledger import writer
from gateway.ledger.bodies import BodySeal
from gateway.ledger.entry import decode_entry, encode_entry
from gateway.ledger.writer import Flood, Ledger
from gateway.observability.bodies import Bodies, BodyMemory
from gateway.observability.record import RequestRecord
from gateway.settings.schema import LedgerSettings
from gateway.store import ledger as ledger_store
from gateway.store import ledger_pages
from gateway.store.errors import StoreUnavailable
from gateway.store.ledger_pages import Filter
from gateway.store.ledger_sums import DAY
from support.ledger import sums_are_of_rows
from support.waiting import WAIT_SECONDS
from test_ledger_store import entry

PATH = "/v1/chat/completions"


class Observer:
    """Counts what an operator is shown."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.bodies: Counter[str] = Counter()
        self.messages: list[str] = []

    def on_rows(self, result: str, count: int) -> None:
        self.rows[result] += count

    def on_bodies(self, result: str, count: int) -> None:
        self.bodies[result] += count

    def message(self, text: str) -> None:
        self.messages.append(text)

    @property
    def counted(self) -> dict[str, int]:
        """The rows by what became of them."""
        return {result: count for result, count in self.rows.items() if count}


class Storage:
    """A ledger with a database and a spool that may be away, and what its observer saw."""

    def __init__(self, folder: Path) -> None:
        self.observer = Observer()
        self._database, self._spool = folder / "database", folder / "spool"
        self.database_url = f"sqlite:///{self._database}/gateway.sqlite3"
        self._database.mkdir()

    def take_database(self) -> None:
        """Puts a file where its directory should be."""
        self._database.rmdir()
        self._database.touch()

    def give_database(self) -> None:
        self._database.unlink()
        self._database.mkdir()

    def take_spool(self) -> None:
        self._spool.touch()

    @contextlib.asynccontextmanager
    async def ledger(self, body_seal: BodySeal | None = None, **settings: Any) -> AsyncIterator[Ledger]:
        values: dict[str, Any] = {"spool": str(self._spool), "flush_seconds": 0.01, **settings}
        ledger = Ledger(LedgerSettings(**values), self.database_url, self.observer, body_seal)
        ledger.start()
        try:
            yield ledger
        finally:
            await ledger.stop()


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path)


def record_of(request_id: str, **fields: Any) -> RequestRecord:
    return RequestRecord(request_id, "POST", PATH, 0.0, **fields)


async def write(ledger: Ledger, id: str, now: float = 0.1) -> bool:
    """Records a call, and returns whether the database or the disk has its row. The ledger is in sync mode."""
    done = ledger.record(record_of(id), now)
    assert done is not None
    return await done


class PlainText:
    """A seal that hides nothing."""

    def seal(self, id: str, text: str) -> bytes:
        return text.encode()

    def open(self, id: str, sealed: bytes) -> str | None:
        return sealed.decode()


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.005)


async def written(ledger: Ledger) -> list[str]:
    """The requests of all rows, in the order of time. The sums are those of the rows."""
    page = await ledger.read(lambda connection: ledger_pages.page(connection, Filter(), None, 1_000))
    await sums_are_of_rows(ledger._reading)
    return [decode_entry(one).request_id for one in reversed(page.entries)]


@pytest.mark.asyncio
async def test_rows_that_neither_takes_wait_in_memory_and_the_oldest_are_lost(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_QUEUE", 2)
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.01)
    storage.take_database()
    storage.take_spool()
    async with storage.ledger(sync=True) as ledger:
        assert [await write(ledger, f"r{number}") for number in range(2)] == [False, False]
        assert (ledger.waiting_rows(), storage.observer.counted) == (2, {})
        assert ledger.condition() and not await write(ledger, "r2")
        assert (ledger.waiting_rows(), storage.observer.counted) == (2, {"lost": 1})
        assert "1 rows are lost (the spool: " in storage.observer.messages[-1]
        storage.give_database()
        await until(lambda: ledger.waiting_rows() == 0 and not ledger.condition())
        assert await written(ledger) == ["r1", "r2"]
        assert await write(ledger, "r3")
        assert await written(ledger) == ["r1", "r2", "r3"]
    assert storage.observer.counted == {"lost": 1, "written": 3}
    assert storage.observer.messages[-1] == "ledger: rows are written again"


@pytest.mark.asyncio
async def test_the_age_of_the_oldest_row_in_the_queue(storage: Storage) -> None:
    async with storage.ledger(flush_seconds=60) as ledger:
        assert ledger.lag(500.0) == 0.0
        ledger.record(record_of("first"), 510.0)
        ledger.record(record_of("second"), 520.0)
        assert (ledger.waiting_rows(), ledger.lag(530.0)) == (2, 20.0)
        assert ledger.lag(505.0) == 0.0, "two clocks may differ by a little"


@pytest.mark.asyncio
async def test_rows_that_are_being_written_are_waiting_still(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go_on, insert = threading.Event(), threading.Event(), ledger_store.insert

    def slow(*arguments: Any) -> int:
        began.set()
        assert go_on.wait(WAIT_SECONDS)
        return insert(*arguments)

    monkeypatch.setattr(ledger_store, "insert", slow)
    async with storage.ledger(sync=True) as ledger:
        first = ledger.record(record_of("first"), 510.0)
        await until(began.is_set)
        second = ledger.record(record_of("second"), 515.0)
        waiting, age = ledger.waiting_rows(), ledger.lag(530.0)
        go_on.set()
        assert first is not None and second is not None and await first and await second
        assert (waiting, age) == (2, 20.0)
        assert (ledger.waiting_rows(), ledger.lag(540.0)) == (0, 0.0)
        assert await written(ledger) == ["first", "second"]


@pytest.mark.asyncio
async def test_the_age_of_rows_on_the_disk_is_the_time_since_the_database_failed(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=600.0)
    monkeypatch.setattr(writer, "time", SimpleNamespace(monotonic=lambda: clock.now, time=time.time))
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.01)
    storage.take_database()
    async with storage.ledger(sync=True) as ledger:
        assert await write(ledger, "first", 590.0), "the disk has it"
        clock.now = 700.0
        assert await write(ledger, "second", 695.0)
        assert (ledger.waiting_rows(), ledger.lag(710.0)) == (0, 110.0), "not that of the last failure"
        assert storage.observer.counted == {"spooled": 2}
        storage.give_database()
        await until(lambda: not ledger.condition())
        assert ledger.lag(720.0) == 0.0
        assert await written(ledger) == ["first", "second"]
    away, back = storage.observer.messages
    assert away.startswith("ledger: rows cannot be written, and go to the spool file: the database failed")
    assert back == "ledger: rows are written again"


@pytest.mark.asyncio
async def test_bodies_are_stored_with_their_row_or_lost(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the group with which the database fails, and of each one after it: the row says that there are none."""
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.01)
    memory = BodyMemory()

    async def write_with_bodies(ledger: Ledger, id: str) -> None:
        bodies = Bodies("all", memory)
        bodies.add_request(b'{"model": "command-a"}')
        row_id = f"{time.time_ns() // 1_000_000:012x}{0:012x}"
        done = ledger.record(record_of(id, id=row_id, bodies=bodies), 0.1)
        assert done is not None and await done and memory.held == 0

    storage.take_database()
    async with storage.ledger(PlainText(), sync=True) as ledger:
        await write_with_bodies(ledger, "first")
        await write_with_bodies(ledger, "second")
        assert (storage.observer.bodies["lost"], storage.observer.bodies["stored"]) == (2, 0)
        storage.give_database()
        await until(lambda: not ledger.condition())
        await write_with_bodies(ledger, "third")
        assert (storage.observer.bodies["lost"], storage.observer.bodies["stored"]) == (2, 1)
        page = await ledger.read(lambda connection: ledger_pages.page(connection, Filter(), None, 10))
        rows = {row.request_id: row for row in map(decode_entry, page.entries)}
        assert {id: row.has_body for id, row in rows.items()} == {"first": False, "second": False, "third": True}
        document = await ledger.find_body(rows["third"].id)
        assert document is not None and document["request"]["text"] == '{"model": "command-a"}'
        assert await ledger.find_body(rows["second"].id) is None


@pytest.mark.asyncio
async def test_a_full_queue_takes_no_row_and_its_bodies_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_QUEUE", 2)
    observer, bodies = Observer(), Mock(spec=Bodies)
    ledger = Ledger(LedgerSettings(), "sqlite:////proc/nothing/gateway.sqlite3", observer)
    for number in range(4):
        assert ledger.record(record_of(f"r{number}", bodies=bodies), 0.1) is None
    assert (ledger.waiting_rows(), observer.counted, bodies.discard.call_count) == (2, {"lost": 2}, 2)
    assert not await ledger.write_rows([]), "nobody writes before the start"


@pytest.mark.asyncio
async def test_rows_made_in_advance_are_not_taken_by_a_full_queue(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has them keeps them, and they are written once, however often they come."""
    async with storage.ledger() as ledger:
        rows = [encode_entry(entry(number)) for number in range(3)]
        monkeypatch.setattr(writer, "MAX_QUEUE", 2)
        assert not await ledger.write_rows(rows)
        monkeypatch.setattr(writer, "MAX_QUEUE", 3)
        assert await ledger.write_rows([*rows[:2], b"no row"]) and await ledger.write_rows(rows)
        assert await written(ledger) == ["req-0", "req-1", "req-2"]
        assert storage.observer.counted == {"written": 3}


def refuse_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the database refuse each group of rows with the request "refused" among them."""
    insert = ledger_store.insert

    def refusing(connection: Any, rows: Any, *rest: Any) -> int:
        if any(row.request_id == "refused" for row in rows):
            raise ValueError
        return insert(connection, rows, *rest)

    monkeypatch.setattr(ledger_store, "insert", refusing)


@pytest.mark.asyncio
async def test_a_row_that_the_database_refuses_takes_no_other_with_it(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_rows(monkeypatch)
    memory = BodyMemory()
    async with storage.ledger(PlainText(), flush_seconds=0.1) as ledger:
        for id in ("before", "refused", "behind"):
            bodies = Bodies("all", memory)
            bodies.add_request(b"{}")
            ledger.record(record_of(id, bodies=bodies), 0.1)
        await until(lambda: sum(storage.observer.counted.values()) == 3)
        assert await written(ledger) == ["before", "behind"]
        assert (storage.observer.bodies["lost"], storage.observer.bodies["stored"], memory.held) == (3, 0, 0)
        page = await ledger.read(lambda connection: ledger_pages.page(connection, Filter(), None, 10))
        assert not any(decode_entry(one).has_body for one in page.entries)
        assert (storage.observer.counted, ledger.condition()) == ({"written": 2, "lost": 1}, "")
        assert storage.observer.messages == ["ledger: ValueError while writing rows"]


@pytest.mark.asyncio
async def test_a_row_that_is_there_with_another_time_is_not_written_after_a_refused_group(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_rows(monkeypatch)
    first = entry(1)
    later = replace(first, at=first.at + 20_000_000)
    async with storage.ledger() as ledger:
        assert await ledger.write_rows([encode_entry(first)])
        assert await ledger.write_rows([encode_entry(one) for one in (entry(0, request_id="refused"), later)])
        assert await written(ledger) == ["req-1"]


@pytest.mark.asyncio
async def test_a_database_that_leaves_while_rows_are_written_one_by_one(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those behind a row that it refuses are not lost, and those before it are not written twice."""
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.01)
    insert, away = ledger_store.insert, True

    def failing(connection: Any, rows: Any, *rest: Any) -> int:
        if away and len(rows) > 1:
            raise ValueError
        if away and rows[0].request_id == "second":
            raise StoreUnavailable("the database failed")
        return insert(connection, rows, *rest)

    monkeypatch.setattr(ledger_store, "insert", failing)
    async with storage.ledger(flush_seconds=0.1) as ledger:
        for id in ("first", "second", "third"):
            ledger.record(record_of(id), 0.1)
        await until(lambda: storage.observer.counted == {"written": 1, "spooled": 3})
        assert ledger.condition()
        away = False
        await until(lambda: not ledger.condition())
        assert await written(ledger) == ["first", "second", "third"]
        assert storage.observer.counted == {"written": 3, "spooled": 3}
    assert storage.observer.messages[0] == "ledger: ValueError while writing rows"
    assert storage.observer.messages[-1] == "ledger: rows are written again"


@pytest.mark.asyncio
async def test_a_record_that_makes_no_row_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    observer, bodies = Observer(), Mock(spec=Bodies)
    ledger = Ledger(LedgerSettings(), "sqlite:////proc/nothing/gateway.sqlite3", observer)
    monkeypatch.setattr(writer, "entry_of", Mock(side_effect=KeyError))
    assert ledger.record(record_of("odd", bodies=bodies), 0.1) is None
    assert (ledger.waiting_rows(), observer.counted, bodies.discard.call_count) == (0, {"lost": 1}, 1)
    assert observer.messages == ["ledger: KeyError while making a row"]


@pytest.mark.asyncio
async def test_many_rows_are_written_in_groups(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "GROUP", 2)
    sizes: list[int] = []
    insert = ledger_store.insert

    def counting(connection: Any, rows: Any, *rest: Any) -> int:
        sizes.append(len(rows))
        return insert(connection, rows, *rest)

    monkeypatch.setattr(ledger_store, "insert", counting)
    async with storage.ledger(flush_seconds=0.1) as ledger:
        for number in range(5):
            ledger.record(record_of(f"r{number}"), 0.1)
        await until(lambda: storage.observer.counted == {"written": 5})
        assert sizes == [2, 2, 1]
        assert await written(ledger) == [f"r{number}" for number in range(5)]


@pytest.mark.asyncio
async def test_a_thread_without_rows_sleeps(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []
    flush = writer._Writer._flush

    async def counting(self: Any, database: Any) -> None:
        rounds.append(len(self._queue))
        await flush(self, database)

    monkeypatch.setattr(writer._Writer, "_flush", counting)
    async with storage.ledger(sync=True) as ledger:
        for id in ("first", "second"):
            assert await write(ledger, id)
            for _ in range(20):
                assert await written(ledger)
    assert rounds == [1, 1, 0, 0], "one for each row, and two at the end"


@pytest.mark.parametrize(("days", "left"), [(0.0, ["old", "day-old", "new"]), (2.0, ["day-old", "new"])])
@pytest.mark.asyncio
async def test_old_rows_are_deleted_beside_new_ones(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, days: float, left: list[str]
) -> None:
    now = time.time()
    rows = [
        entry(number, at=at, request_id=id)
        for number, (id, at) in enumerate((("old", now - 3 * DAY), ("day-old", now - DAY), ("new", now)))
    ]
    async with storage.ledger(days=0.0) as ledger:
        assert await ledger.write_rows([encode_entry(one) for one in rows])

    monkeypatch.setattr(writer, "RETENTION_SECONDS", 0.0)
    async with storage.ledger(days=days) as ledger:

        async def request_ids() -> list[str]:
            """Of the rows, behind those that are written now."""
            assert await ledger.write_rows([encode_entry(rows[-1])])
            page = await ledger.read(lambda connection: ledger_pages.page(connection, Filter(), None, 100))
            return [decode_entry(one).request_id for one in reversed(page.entries)]

        # What is old is deleted between two groups of rows, and two of these may be of one group.
        for _ in range(3):
            await request_ids()
        async with asyncio.timeout(WAIT_SECONDS):
            while await request_ids() != left:
                pass


def test_calls_of_strangers_without_a_row_are_counted() -> None:
    """Only theirs: nobody whom a key lets in loses a row so."""
    observer = Observer()
    ledger = Ledger(LedgerSettings(), "sqlite:////proc/nothing/gateway.sqlite3", observer)
    for principal in (NOBODY, Principal("somebody", "owner", True, Credential())):
        for number in range(writer.ROWS_PER_ADDRESS + 2):
            assert ledger.record(record_of(f"r{number}", address="192.0.2.1", principal=principal), 0.1) is None
    assert observer.counted == {"not_made": 2}
    assert ledger.waiting_rows() == 2 * writer.ROWS_PER_ADDRESS + 2


def test_addresses_of_strangers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was seen first is forgotten: a flood from many addresses takes no more memory."""
    monkeypatch.setattr(writer, "MAX_ADDRESSES", 2)
    flood = Flood(1)
    assert [flood.admits(address, 30.0) for address in ("a", "b", "a")] == [True, True, False]
    assert flood.admits("c", 30.0)
    assert [flood.admits("b", 59.9), flood.admits("a", 30.0), flood.admits("c", 60.0)] == [False, True, True]
