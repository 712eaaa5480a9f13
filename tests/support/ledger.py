"""What a gateway wrote into its ledger: rows out of the SQLite file, while it runs or afterwards.

`sums_are_of_rows` is the law of the sums, on either database.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gateway.ledger.entry import LedgerEntry, decode_entry
from gateway.ledger.sums import EndUserNames, sums_of
from gateway.ledger.writer import address_of, stored_row
from gateway.store import ledger, ledger_pages, ledger_sums
from gateway.store.database import Database
from gateway.store.ledger import MICROSECONDS
from gateway.store.ledger_pages import Filter
from gateway.store.ledger_sums import DAY, HOUR
from support.waiting import WAIT_SECONDS


def ledger_file(database_url: str) -> Path:
    """The SQLite file of the ledger that belongs to a gateway's database."""
    return Path(address_of(database_url, "")[0].removeprefix("sqlite:///"))


def rows(database_url: str) -> list[dict[str, Any]]:
    """All rows there are, in the order of time. What a row leaves out has its default."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{ledger_file(database_url)}?mode=ro", uri=True)) as connection:
            return [json.loads(entry) for (entry,) in connection.execute("SELECT entry FROM ledger ORDER BY at, id")]
    except sqlite3.OperationalError:
        return []  # nothing was written yet


def sums(database_url: str, column: str, scope: int = 0, seconds: int = 86_400) -> Any:
    """The sum of a column over all sums of a scope."""
    query = f"SELECT sum({column}) FROM ledger_sums WHERE scope = ? AND seconds = ?"  # noqa: S608
    with contextlib.closing(sqlite3.connect(ledger_file(database_url))) as connection:
        return connection.execute(query, (scope, seconds)).fetchone()[0] or 0


def wait_for_rows(
    database_url: str, wanted: Callable[[dict[str, Any]], bool], count: int = 1, seconds: float = WAIT_SECONDS
) -> list[dict[str, Any]]:
    """The rows that are wanted, once there are so many: they are written a moment after the answer."""
    deadline = time.monotonic() + seconds
    while len(result := [row for row in rows(database_url) if wanted(row)]) < count:
        assert time.monotonic() < deadline, f"{len(result)} of {count} rows; there are {rows(database_url)}"
        time.sleep(0.02)
    return result


BY: tuple[tuple[str, ...], ...] = (
    *((), ("key_id",), ("team_id",), ("user_id",), ("model",), ("method",), ("fault",), ("day",), ("hour",)),
    *(
        ("end_user",),
        ("end_user", "day"),
        ("key_id", "model", "day"),
        ("team_id", "user_id", "method", "fault", "hour"),
    ),
)
"""By what usage is asked for."""


async def sums_are_of_rows(database: Database) -> list[LedgerEntry]:
    """Assert that usage, by whatever it is asked for, is what the rows add up to. Returns these, the newest first."""
    page = await database.read(lambda connection: ledger_pages.page(connection, Filter(), None, 100_000))
    entries = [decode_entry(entry) for entry in page.entries]
    until = max((entry.at // MICROSECONDS for entry in entries), default=0) // DAY * DAY + DAY
    for by in BY:
        groups = await database.read(lambda connection, by=by: ledger_sums.usage(connection, by, 0, until, {}))  # type: ignore[misc]
        names = [name for name in by if name not in ("day", "hour")] + ["start"] * (by[-1:] in (("day",), ("hour",)))
        result = {tuple(group[name] for name in names): _amounts(group) for group in groups}
        counted: dict[tuple[Any, ...], Counter[str]] = {}
        for entry in entries:
            if "end_user" not in by or entry.end_user:
                period = HOUR if "hour" in by else DAY
                start = entry.at // MICROSECONDS // period * period
                group = tuple(start if name == "start" else getattr(entry, name) or "" for name in names)
                counted.setdefault(group, Counter()).update(_amounts_of(entry))
        assert result == {group: dict(amounts) for group, amounts in counted.items()}, by
    return entries


_AMOUNTS = ("calls", "failures", "unpriced_calls", "cost", "input", "output", "input_tokens", "output_tokens")


def _amounts(sums: Any) -> dict[str, int]:
    return {name: int(sums[name]) for name in _AMOUNTS}


def _amounts_of(entry: LedgerEntry) -> dict[str, int]:
    units, cost = entry.units, entry.cost_nanodollars
    amounts = (1, entry.failed, cost is None, cost or 0, entry.tokens.input, entry.tokens.output)
    billed = (units.get("input_tokens", 0), units.get("output_tokens", 0))
    return {name: int(amount) for name, amount in zip(_AMOUNTS, (*amounts, *billed), strict=True)}


async def write_rows(database: Database, entries: Sequence[LedgerEntry], repeated: bool = False) -> int:
    """Write rows as the gateway does. Returns how many were new."""
    by_id, names = {entry.id: entry for entry in entries}, EndUserNames()
    stored = [stored_row(entry) for entry in entries]
    return await database.write(
        lambda connection: ledger.insert(
            connection, stored, lambda new: sums_of([by_id[row.id] for row in new], names), repeated
        )
    )
