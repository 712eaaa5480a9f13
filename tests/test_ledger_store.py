"""The ledger in the database: rows once, sums with them, pages to their end, old rows gone with their bytes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gateway.ledger.entry import LedgerEntry, Tokens, timestamp
from gateway.ledger.spool import Spool
from gateway.ledger.sums import EndUserNames, sums_of
from gateway.ledger.writer import Flood, stored_row
from gateway.store import ledger
from gateway.store.database import Database
from gateway.store.ledger import DAY, MICROSECONDS, OTHER_END_USERS, Filter, Position
from support.databases import throwaway

NOW = int(time.time())


def entry(number: int, at: float = NOW, **fields: object) -> LedgerEntry:
    micros = int(at * MICROSECONDS) + number
    values = {
        "id": f"{number:024x}",
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


async def insert(database: Database, entries: list[LedgerEntry], repeated: bool = False) -> int:
    by_id = {one.id: one for one in entries}
    names = EndUserNames(5)
    return await database.write(
        lambda connection: ledger.insert(
            connection,
            [stored_row(one) for one in entries],
            lambda rows: sums_of([by_id[row.id] for row in rows], names),
            repeated,
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

        by_key = await database.read(lambda c: ledger.usage(c, ("key_id",), NOW - 3600, NOW + 7200, {}))
        assert sum(row["calls"] for row in by_key) == 41
        everything = await database.read(lambda c: ledger.usage(c, (), 0, NOW + 2 * DAY, {}))
        assert everything[0]["calls"] == 2541 and everything[0]["cost"] == 25_410
        assert everything[0]["input_tokens"] == 5082
        users = await database.read(lambda c: ledger.usage(c, ("end_user",), NOW // DAY * DAY, NOW + 2 * DAY, {}))
        assert {row["end_user"] for row in users} > {OTHER_END_USERS} and sum(row["calls"] for row in users) == 41

        seen, before = 0, None
        wanted = Filter(text="call 3")  # no index answers it: pages may be short
        for _ in range(100):
            page = await database.read(lambda c, before=before: ledger.page(c, wanted, before, 4))  # type: ignore[misc]
            seen, before = seen + len(page.entries), page.next
            if before is None:
                break
        assert seen == 11  # 3 and 30 to 39
        position = Position(new[10].at, new[10].id)
        older = await database.read(lambda c: ledger.page(c, Filter(key_id="key_1"), position, 100))
        assert len(older.entries) == 100 and older.next is not None

        size = (tmp_path / "store.db").stat().st_size if kind == "sqlite" else 0
        while await database.write(lambda c: ledger.delete_old(c, NOW - 5 * DAY)):
            pass
        left = await database.read(lambda c: ledger.page(c, Filter(), None, 5000))
        assert len(left.entries) == 41
        days = await database.read(lambda c: ledger.usage(c, ("day",), 0, (NOW // DAY + 1) * DAY, {}))
        assert sum(row["calls"] for row in days) == 2541  # daily sums stay
        await database.close()
        if kind == "sqlite":  # closing moves what is in the log to the file
            assert (tmp_path / "store.db").stat().st_size < size / 2 or size == 0


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
