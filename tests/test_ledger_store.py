"""The ledger in the database: rows once, sums with them, pages to their end, old rows gone with their bytes."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, event

from gateway.ledger.entry import LedgerEntry, Tokens, decode_entry, timestamp
from gateway.ledger.spool import Spool, SpoolFull
from gateway.ledger.sums import EndUserNames, sums_of
from gateway.ledger.writer import Flood, address_of, stored_row
from gateway.store import ledger, ledger_pages, ledger_sums
from gateway.store.database import Database
from gateway.store.key_lists import spent
from gateway.store.ledger import MICROSECONDS
from gateway.store.ledger_pages import Filter, Position
from gateway.store.ledger_sums import DAY, HOUR, OTHER_END_USERS
from gateway.store.tables import LATENCY_COLUMNS
from support.databases import throwaway
from support.ledger import sums_are_of_rows

NOW = int(time.time())


def entry(number: int, at: float = NOW, **fields: object) -> LedgerEntry:
    micros = int(at * MICROSECONDS) + number
    values = {
        "id": f"{micros // 1000 - 100:012x}{number:012x}",
        "at": micros,
        "time": timestamp(micros),
        "request_id": f"req-{number}",
        "key_id": f"key_{number % 3}",
        "end_user": f"user-{number}",
        "method": "v2.chat",
        "model": "m",
        "status": 200,
        "outcome": "ok",
        "units": {"input_tokens": 2},
        "tokens": Tokens(2, 1),
        "cost_nanodollars": 10,
        "sentence": f"Call {number}.",
    }
    return LedgerEntry(**{**values, **fields})  # type: ignore[arg-type]


async def insert(
    database: Database, entries: list[LedgerEntry], repeated: bool = False, repeated_ids: Collection[str] = ()
) -> int:
    by_id = {one.id: one for one in entries}
    names = EndUserNames(5)
    return await database.write(
        lambda connection: ledger.insert(
            connection,
            [stored_row(one) for one in entries],
            lambda rows: sums_of([by_id[row.id] for row in rows], names),
            repeated,
            (),
            repeated_ids,
        )
    )


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_rows_sums_pages_and_retention(kind: str, tmp_path: Path) -> None:
    async with throwaway(kind, tmp_path) as url:
        database = Database(url, 30, 2)
        old = [entry(number, NOW - 10 * DAY, sentence="Old. " + "x" * 500) for number in range(1000, 3500)]
        new = [entry(number) for number in range(40)]
        assert await insert(database, old) == len(old)
        assert await insert(database, new) == 40
        assert await insert(database, [*new, entry(40)], repeated=True) == 1  # the others are there already
        # Another process has seen the end of the same call, a moment later.
        again = replace(new[0], at=new[0].at + 20_000_000)
        assert await insert(database, [again], repeated=True, repeated_ids=[again.id]) == 0

        by_key = await database.read(lambda c: ledger_sums.usage(c, ("key_id",), NOW - 3600, NOW + 7200, {}))
        assert sum(row["calls"] for row in by_key) == 41
        everything = await database.read(lambda c: ledger_sums.usage(c, (), 0, NOW + 2 * DAY, {}))
        assert everything[0]["calls"] == 2541 and everything[0]["cost"] == 25_410
        assert everything[0]["input_tokens"] == 5082
        users = await database.read(lambda c: ledger_sums.usage(c, ("end_user",), NOW // DAY * DAY, NOW + 2 * DAY, {}))
        assert {row["end_user"] for row in users} > {OTHER_END_USERS} and sum(row["calls"] for row in users) == 41

        slow: dict[str, Any] = {"key_id": "key_slow", "model": "slow"}
        timed = [
            entry(50, NOW - 60, total_ms=700.0, ttft_ms=90.0, **slow),
            entry(51, NOW - 60, outcome="error", **slow),
        ]
        assert await insert(database, timed) == 2
        assert await insert(database, [entry(52, NOW - 60, total_ms=200_000.0, **slow)]) == 1
        day = NOW // DAY * DAY
        for by, start in (("model", NOW - 7200), ("key_id", day - DAY), ("model", day - DAY)):
            (row,) = await database.read(
                lambda c, by=by, start=start: ledger_sums.usage(  # type: ignore[misc]
                    c, (by,), start, day + DAY, {by: slow[by]}, latency=True
                )
            )
            counted = {name: row[name] for name in LATENCY_COLUMNS if row[name]}
            assert counted == {"total_ms_6": 1, "total_ms_16": 1, "ttft_ms_2": 1} and row["calls"] == 3

        count, before = 0, None
        wanted = Filter(text="call 3")  # no index answers it: pages may be short
        for _ in range(100):
            page = await database.read(lambda c, before=before: ledger_pages.page(c, wanted, before, 4))  # type: ignore[misc]
            count, before = count + len(page.entries), page.next
            if before is None:
                break
        assert count == 11  # 3 and 30 to 39
        with pytest.MonkeyPatch.context() as patch:  # few rows are looked at for a page
            patch.setattr(ledger_pages, "SCANS", (2, 3, 4))
            texts: list[bytes] = []
            before, pages = None, 0
            while pages == 0 or before is not None:
                page = await database.read(lambda c, before=before: ledger_pages.page(c, wanted, before, 4))  # type: ignore[misc]
                texts, before, pages = texts + list(page.entries), page.next, pages + 1
            assert len(set(texts)) == len(texts) == 11 and pages > 100
            oldest = Filter(id=old[0].id)
            assert len((await database.read(lambda c: ledger_pages.page(c, oldest, None, 4))).entries) == 1
            assert not (
                await database.read(lambda c: ledger_pages.page(c, replace(oldest, status=404), None, 4))
            ).entries
        assert await insert(database, [entry(41, notes=("a",)), entry(42, metadata={"a": 'b","notes":["'})]) == 2
        for notes, ids in ((True, [41]), (False, [42, 40])):
            few = await database.read(lambda c, notes=notes: ledger_pages.page(c, Filter(notes=notes), None, 2))  # type: ignore[misc]
            assert [one.request_id for one in map(decode_entry, few.entries)] == [f"req-{number}" for number in ids]
        position = Position(new[10].at, new[10].id)
        older = await database.read(lambda c: ledger_pages.page(c, Filter(key_id="key_1"), position, 100))
        assert len(older.entries) == 100 and older.next is not None

        size = (tmp_path / "store.db").stat().st_size if kind == "sqlite" else 0
        while await database.write(lambda c: ledger.delete_old(c, NOW - 5 * DAY)):
            pass
        left = await database.read(lambda c: ledger_pages.page(c, Filter(), None, 5000))
        assert len(left.entries) == 46
        days = await database.read(lambda c: ledger_sums.usage(c, ("day",), 0, (NOW // DAY + 1) * DAY, {}))
        assert sum(row["calls"] for row in days) == 2546  # daily sums stay
        await database.close()
        if kind == "sqlite":  # closing moves what is in the log to the file
            assert (tmp_path / "store.db").stat().st_size < size / 2 or size == 0


FILTERS: dict[str, Filter] = {
    "all": Filter(),
    "a request": Filter(request_id="req-1"),
    "an id": Filter(id=f"{NOW * 1000:012x}{1:012x}"),
    "a key": Filter(key_id="key_1"),
    "a team and a model": Filter(team_id="team_1", model="m"),
    "an end user": Filter(end_user="user-1"),
    "a fault": Filter(fault="provider_error"),
    "failures": Filter(failed=True),
    "a status": Filter(status=404),
    "a text": Filter(text="x"),
    "with notes": Filter(notes=True),
    "of a team, without notes": Filter(team_id="team_1", notes=False),
    "a tag": Filter(labels=["=nightly"]),
    "dear calls in a time": Filter(min_cost=1, since=1, until=NOW * MICROSECONDS),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_what_a_page_costs_does_not_grow_with_the_table(kind: str, tmp_path: Path) -> None:
    """Each page reads an index from a position on, and sorts no more than rows of one moment."""
    async with throwaway(kind, tmp_path) as url:
        database = Database(url, 30, 1)
        await insert(database, [entry(number) for number in range(20)])
        plans = await database.read(lambda connection: list(plans_of(connection)))
        if kind == "sqlite":
            await database.write(pretend_that_there_are_millions_of_rows)
            await database.close()
            database = Database(url, 30, 1)  # statistics are read when a file is opened
            plans += await database.read(lambda connection: list(plans_of(connection)))
        await database.close()
    assert len(plans) >= 2 * len(FILTERS)
    for name, plan in plans:
        if kind == "sqlite":
            reads = [step for step in plan if re.match(r"(SCAN|SEARCH) ledger", step)]
            used = r"SEARCH ledger USING ((COVERING )?INDEX|INTEGER PRIMARY KEY \(rowid)"
            assert reads and all(re.match(used, step) for step in reads), (name, plan)
            # The row's own order is the index's; what is sorted are the 10,000 that were looked at, ties, or segments.
            sorts = [step for step in plan if step.startswith("USE TEMP") and "RIGHT PART" not in step]
            assert len(sorts) <= (not {"CO-ROUTINE anon_1", "CO-ROUTINE segments"}.isdisjoint(plan)), (name, plan)
        else:
            assert not [step for step in plan if "Seq Scan" in step], (name, plan)
        wanted = {
            "a request": "request_id",
            "a key": "key_id",
            "a team and a model": "team_id",
            "an end user": "end_user",
            "a fault": "fault",
        }.get(name)
        by_number = any("(rowid=?)" in step for step in plan)  # as found in SQLite's segments
        assert wanted is None or by_number or any(wanted in step and "at" in step for step in plan), (name, plan)


def pretend_that_there_are_millions_of_rows(connection: Connection) -> None:
    """Gives SQLite the statistics that ANALYZE makes of a table with few teams, keys and faults."""
    connection.exec_driver_sql("ANALYZE")
    connection.exec_driver_sql("DELETE FROM sqlite_stat1 WHERE tbl = 'ledger'")
    names = [f"ix_ledger_{name}" for name in ("key_id", "team_id", "end_user", "fault")]
    statistics = [(name, "5000000 625000 1") for name in names] + [("sqlite_autoindex_ledger_1", "5000000 1 1")]
    statistics.append(("ix_ledger_segment", "5000000 8000 8000 1"))
    connection.exec_driver_sql("INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES ('ledger', ?, ?)", statistics)


def plans_of(connection: Connection) -> Iterator[tuple[str, list[str]]]:
    """The plan of each statement of a page, and of a count of newer rows, by the filter."""
    statements: list[tuple[str, Any]] = []

    def see(_: Any, __: Any, statement: str, parameters: Any, *more: Any) -> None:
        statements.append((statement, parameters))

    after, before = Position((NOW - DAY) * MICROSECONDS, "0"), Position(2 * NOW * MICROSECONDS, "f")
    explain = "EXPLAIN QUERY PLAN "
    if connection.dialect.name == "postgresql":
        explain = "EXPLAIN "
        connection.exec_driver_sql("SET enable_seqscan = off")  # of twenty rows it is the quickest
    for name, wanted in FILTERS.items():
        statements.clear()
        event.listen(connection, "before_cursor_execute", see)
        ledger_pages.page(connection, wanted, before, 5)
        ledger_pages.newer(connection, wanted, after)
        event.remove(connection, "before_cursor_execute", see)
        for statement, parameters in list(statements):
            yield name, [str(row[-1]) for row in connection.exec_driver_sql(explain + statement, parameters)]


SAME = "chosen by a caller"


async def rows_of_one_request(database: Database) -> list[LedgerEntry]:
    """Write rows of one request id among others, some long after their calls. Returns them, the newest first."""
    written: list[LedgerEntry] = []
    for group in range(20):
        late = DAY if group in (7, 8, 15) else 0  # the database was away
        numbers = range(group * 10, group * 10 + 10)
        rows = [
            entry(
                number,
                NOW - 3600 + group - late,
                request_id=SAME if number % 3 or group > 10 else f"other-{number}",
                fault="provider_error" if number % 5 == 0 else None,
            )
            for number in numbers
        ]
        assert await insert(database, rows) == 10
        written += [row for row in rows if row.request_id == SAME]
    return sorted(written, key=lambda row: (row.at, row.id), reverse=True)


async def all_pages(database: Database, wanted: Filter, limit: int) -> list[str]:
    """The ids of all rows that a filter meets, page by page."""
    ids: list[str] = []
    before: Position | None = None
    while True:
        page = await database.read(lambda c: ledger_pages.page(c, wanted, before, limit))
        ids += [decode_entry(one).id for one in page.entries]
        if (before := page.next) is None:
            return ids


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_the_rows_of_a_request_id_are_in_the_order_of_time(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However its index is divided, and whenever they were written: with cursors, times and other filters."""
    monkeypatch.setattr(ledger, "SEGMENT_ROWS", 25)
    monkeypatch.setattr(ledger_pages, "SCANS", (3, 5, 9))
    async with throwaway(kind, tmp_path) as url:
        database = Database(url, 30, 2)
        rows = await rows_of_one_request(database)
        if kind == "sqlite":
            segments = await database.read(lambda c: c.exec_driver_sql("SELECT DISTINCT segment FROM ledger").all())
            assert {number for (number,) in segments} == {*range(1, 9)}
        for limit in (1, 4, 20, 500):
            assert await all_pages(database, Filter(request_id=SAME), limit) == [row.id for row in rows]
        since, until = rows[150].at, rows[20].at
        times = Filter(request_id=SAME, since=since, until=until)
        assert await all_pages(database, times, 7) == [row.id for row in rows[21:151]]
        failed = Filter(request_id=SAME, fault="provider_error", model="m")
        assert await all_pages(database, failed, 4) == [row.id for row in rows if row.fault]
        assert await all_pages(database, replace(failed, key_id="key_1", until=until), 2) == [
            row.id for row in rows if row.fault and row.key_id == "key_1" and row.at < until
        ]
        assert await all_pages(database, Filter(request_id="nobody's"), 5) == []
        for number in (0, 3, 140):
            after = Position(rows[number].at, rows[number].id)
            for wanted in (Filter(request_id=SAME), failed, times):
                count = await database.read(lambda c, w=wanted, a=after: ledger_pages.newer(c, w, a))  # type: ignore[misc]
                newer = [row for row in rows[:number] if wanted.fault is None or row.fault]
                assert count == len([row for row in newer if wanted.until is None or row.at < wanted.until])
        await database.close()


@pytest.mark.asyncio
async def test_few_segments_are_read_for_a_page_of_one_request_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "SEGMENT_ROWS", 10)
    async with throwaway("sqlite", tmp_path) as url:
        database = Database(url, 30, 1)
        for group in range(40):
            await insert(database, [entry(group * 10 + one, NOW, request_id=SAME) for one in range(10)])
        statements: list[str] = []

        def see(_: Any, __: Any, statement: str, *more: Any) -> None:
            statements.append(statement)

        def read(connection: Connection) -> ledger_pages.Page:
            event.listen(connection, "before_cursor_execute", see)
            return ledger_pages.page(connection, Filter(request_id=SAME), None, 25)

        page = await database.read(read)
        assert [decode_entry(one).request_id for one in page.entries] == [SAME] * 25
        assert len(statements) == 5, "the list of segments, three of them, and the rows"
        await database.close()


@pytest.mark.asyncio
async def test_rows_of_one_moment_are_in_the_order_of_their_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "SEGMENT_ROWS", 2)
    async with throwaway("sqlite", tmp_path) as url:
        database = Database(url, 30, 1)
        rows = [replace(entry(number, request_id=SAME), at=NOW * MICROSECONDS) for number in range(6)]
        for start in (4, 2, 0):  # the newest id is in the oldest segment
            await insert(database, rows[start : start + 2])
        for limit in (1, 2, 3, 6):
            assert await all_pages(database, Filter(request_id=SAME), limit) == [row.id for row in reversed(rows)]
        await database.close()


_BEFORE_SEGMENTS = {
    "sqlite": (
        "DROP INDEX ix_ledger_segment",
        "ALTER TABLE ledger DROP COLUMN segment",
        "CREATE INDEX ix_ledger_request_id ON ledger (request_id, at)",
    ),
    "postgresql": ("ALTER TABLE ledger DROP COLUMN segment",),
}
_AT_VERSION_14 = "UPDATE alembic_version SET version_num = '0014'"


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_rows_from_before_there_were_segments_are_found(kind: str, tmp_path: Path) -> None:
    def go_back(connection: Connection) -> None:
        for statement in (*_BEFORE_SEGMENTS[kind], "DROP TABLE ledger_outbox", _AT_VERSION_14):
            connection.exec_driver_sql(statement)

    async with throwaway(kind, tmp_path) as url:
        database = Database(url, 30, 1)
        rows = await rows_of_one_request(database)
        await database.write(go_back)
        await database.close()
        database = Database(url, 30, 1)
        new = [entry(number, request_id=SAME) for number in range(1_000, 1_005)]
        assert await insert(database, new) == 5
        ids = await all_pages(database, Filter(request_id=SAME), 30)
        assert ids == [row.id for row in (*reversed(new), *rows)]
        await database.close()


def test_a_flood_of_strangers_makes_few_rows() -> None:
    flood = Flood(3)
    assert [flood.admits("203.0.113.7", 10.0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert flood.admits("203.0.113.8", 10.0) and flood.admits("203.0.113.7", 70.0)


def test_a_line_that_was_cut_is_left_out(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append([b"one", b"two"])
    spool.close()
    (path,) = tmp_path.glob("*.spool")
    path.write_bytes(path.read_bytes() + b"thr")
    other = Spool(tmp_path)
    assert other.adopt() and list(other.batches(10)) == [[b"one", b"two"]]
    assert not Spool(tmp_path).adopt()  # it is locked
    other.clear()
    assert not list(tmp_path.glob("*.spool"))


def test_rows_come_back_in_batches(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert list(spool.batches(2)) == [] and spool.empty
    spool.clear()
    rows = [b"%d" % number for number in range(5)]
    spool.append(rows[:3])
    spool.append(rows[3:])
    assert list(spool.batches(2)) == [rows[:2], rows[2:4], rows[4:]]
    spool.append([b"5"])
    assert list(spool.batches(3)) == [rows[:3], [*rows[3:], b"5"]]
    spool.clear()


def test_a_file_of_rows_has_a_bound(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=10)
    spool.append([b"1234"])
    with pytest.raises(SpoolFull):
        spool.append([b"123456"])
    spool.append([b"1234"])
    assert list(spool.batches(10)) == [[b"1234", b"1234"]]
    spool.close()


def test_half_a_row_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that is full."""
    spool = Spool(tmp_path)
    spool.append([b"one"])

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(OSError):
            spool.append([b"two", b"three"])
    spool.append([b"four"])
    assert list(spool.batches(10)) == [[b"one", b"four"]]
    spool.close()


def test_what_cannot_be_opened_is_no_file_of_rows(tmp_path: Path) -> None:
    (tmp_path / "0.spool").mkdir()
    gone = Spool(tmp_path)
    gone.append([b"one"])
    gone.close()
    spool = Spool(tmp_path)
    assert spool.adopt() and list(spool.batches(10)) == [[b"one"]]
    spool.close()


def test_where_rows_wait_while_the_database_is_away(tmp_path: Path) -> None:
    beside = tmp_path / "gateway-ledger.db"
    assert address_of(f"sqlite:///{tmp_path}/gateway.db", "") == (f"sqlite:///{beside}", beside.with_suffix(".spool"))
    assert address_of(f"sqlite:///{tmp_path}/gateway.db", "there")[1] == Path("there")
    shared = "postgresql://host/gateway"
    assert address_of(shared, "") == (shared, Path("cohere-gateway-ledger-spool"))
    assert address_of(shared, "there") == (shared, Path("there"))


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_what_was_spent_since_a_budget_began_anew(kind: str, tmp_path: Path) -> None:
    """By days from midnight on, by hours from any other time."""
    midnight = NOW // DAY * DAY
    times = (midnight - 40 * DAY, midnight - 1, midnight, midnight + HOUR - 1, midnight + HOUR)
    rows = [entry(number * 3, at, cost_nanodollars=10**number) for number, at in enumerate(times)]
    async with throwaway(kind, tmp_path) as url:
        database = Database(url, 30, 2)
        await insert(database, rows)
        for since, expected in (
            (0, 11111),
            (midnight - 40 * DAY, 11111),
            (midnight - 39 * DAY, 11110),
            (midnight, 11100),
            (midnight + HOUR, 10000),
            (midnight + HOUR + 59, 10000),
            (midnight + DAY, 0),
        ):
            for by, id in (("key_id", "key_0"), ("team_id", "")):
                amounts = await database.read(lambda c, by=by, id=id, since=since: spent(c, by, [id], since))  # type: ignore[misc]
                assert amounts.get(id, {}).get("m", 0) == expected, (by, since)
        await database.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_row_belongs_to_the_day_in_which_it_ended(kind: str, tmp_path: Path) -> None:
    """In UTC, to the microsecond; its hour, its partition and the filters of rows say the same."""
    midnight = NOW // DAY * DAY
    async with throwaway(kind, tmp_path) as url:
        database = Database(url, 30, 2)
        late = [entry(number, midnight - 1) for number in (0, 999_999)]
        early = [entry(number, midnight) for number in (0, 1, 999_999)]
        assert await insert(database, late + early) == 5
        await sums_are_of_rows(database)
        for first, rows in ((midnight - DAY, late), (midnight, early)):
            period = Filter(since=first * MICROSECONDS, until=(first + DAY) * MICROSECONDS)
            page = await database.read(lambda c, period=period: ledger_pages.page(c, period, None, 10))  # type: ignore[misc]
            assert [decode_entry(one).at for one in page.entries] == [one.at for one in reversed(rows)]
            for by, since in ((("day",), first), (("hour",), first), ((), first)):
                sums = await database.read(
                    lambda c, by=by, since=since: ledger_sums.usage(c, by, since, since + DAY, {})  # type: ignore[misc]
                )
                assert [int(row["calls"]) for row in sums] == [len(rows)]
        await database.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_pages_skip_and_repeat_nothing_while_rows_come_and_go(kind: str, tmp_path: Path) -> None:
    async with throwaway(kind, tmp_path) as url:
        database, writing = Database(url, 30, 2), Database(url, 30, 1)
        await insert(database, [entry(number, NOW - 10 * DAY) for number in range(100)])
        there = [entry(number, NOW - 3_000) for number in range(1_000, 1_120)]
        await insert(database, there)
        read: list[str] = []
        before: Position | None = None
        for number in range(100):
            page = await database.read(lambda c, before=before: ledger_pages.page(c, Filter(), before, 17))  # type: ignore[misc]
            read += [decode_entry(one).id for one in page.entries]
            before = page.next
            if before is None:
                break
            await insert(writing, [entry(10_000 + number)])
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ledger, "DELETED_ROWS", 20)
                await writing.write(lambda c: ledger.delete_old(c, NOW - 5 * DAY))
        assert len(read) == len(set(read)) and {one.id for one in there} <= {*read}
        page = await database.read(lambda c: ledger_pages.page(c, Filter(until=(NOW - DAY) * MICROSECONDS), None, 200))
        assert not page.entries, "old rows are gone"
        await database.close()
        await writing.close()
