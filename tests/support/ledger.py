"""What a gateway wrote into its ledger: rows out of the SQLite file, while it runs or afterwards."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.ledger.writer import address_of


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
    database_url: str, wanted: Callable[[dict[str, Any]], bool], count: int = 1, seconds: float = 30.0
) -> list[dict[str, Any]]:
    """The rows that are wanted, once there are so many: they are written a moment after the answer."""
    deadline = time.monotonic() + seconds
    while len(found := [row for row in rows(database_url) if wanted(row)]) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} rows; there are {rows(database_url)}"
        time.sleep(0.02)
    return found
