"""THE LAW OF ROWS: each call has exactly one, which says what its caller saw, what Cohere billed and what that costs.

`harness_with_ledger` holds its rows to it when it is left, and their sums, on SQLite and on PostgreSQL.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.settings.schema import LedgerSettings
from gateway.store.database import Database
from support import databases
from support.app import Harness, run_harness
from support.ledger import ledger_file, rows, sums_are_of_rows, wait_for_rows, write_rows

Units = Mapping[str, Any]

PRICES: Mapping[str, Mapping[str, int]] = {
    "v2.chat": {"input_tokens": 2_500, "output_tokens": 10_000},
    "v2.embed": {"input_tokens": 120},
}
"""Nano-dollars of a unit, of the models that are asked here."""


@dataclass
class Calls:
    """What callers saw, by request.

    billed: the units that a row may have, where it is not what `billed_by` says.
    """

    billed_by: Callable[[Mapping[str, Any]], Sequence[Units]]
    statuses: dict[str, int] = field(default_factory=dict)
    billed: dict[str, Sequence[Units]] = field(default_factory=dict)


def cost_is_exact(row: Mapping[str, Any]) -> bool:
    """Whether a row costs what its units do, or where Cohere did not come to say them, the tokens that were counted.

    Nothing is owed for a refusal. Of a call that was sent and not refused, and has no count, the cost is unknown, as is
    that of a unit without a price.
    """
    prices, units, cost = PRICES[row["method"]], row.get("units", {}), row.get("cost_nanodollars", 0)
    if units:
        return bool(
            cost == (sum(prices[name] * units[name] for name in units) if units.keys() <= prices.keys() else None)
        )
    tokens = row.get("tokens", {})
    if row.get("estimated"):
        counted = tokens.get("input", 0) * prices["input_tokens"] + tokens.get("output", 0) * prices["output_tokens"]
        return cost is None or bool(cost == counted > 0)
    return not any(tokens.values()) and cost == (0 if row["attempts"][0]["status"] >= 300 else None)


async def same_on_postgresql(url: str) -> None:
    """Assert that the rows of SQLite, written to PostgreSQL, are the same there, once each, and so are their sums."""
    source = Database(f"sqlite:///{ledger_file(url)}", 30, 1)
    entries = await sums_are_of_rows(source)
    await source.close()
    with contextlib.suppress(pytest.skip.Exception):  # there is no PostgreSQL
        async with databases.throwaway("postgresql", Path(tempfile.gettempdir())) as other:
            database = Database(other, 30, 1)
            assert await write_rows(database, entries) == len(entries)
            assert await write_rows(database, entries, repeated=True) == 0
            assert await sums_are_of_rows(database) == entries
            await database.close()


@contextlib.contextmanager
def harness_with_ledger(calls: Calls, first: Callable[[Harness], Any], **settings: Any) -> Iterator[Harness]:
    """A harness on which, whatever happened, each call has one row in the ledger: with the status that its caller saw,
    the fault that the log names, the units that Cohere billed, and their cost. It is the same on both databases.

    first: a call, after which the ledger's thread and its tasks are there.
    """
    with run_harness(ledger=LedgerSettings(flush_seconds=0.01), **settings) as harness:
        url = harness.gateway.database_url
        first(harness)
        wait_for_rows(url, lambda row: True)
        yield harness
        harness.gateway.settle()
        lines = {line["request"]: line for line in harness.gateway.log.lines if "request" in line}
        wait_for_rows(url, lambda row: True, len(lines))
        written = {row["request_id"]: row for row in rows(url)}
        assert len(written) == len(rows(url)) and written.keys() == lines.keys()
        for id, row in written.items():
            line = lines[id]
            assert row["status"] == calls.statuses.get(id, line["status"]) == line["status"], row
            assert (row["outcome"], row.get("fault", "")) == (line["outcome"], line.get("fault", "")), row
            if "method" not in row:  # Cohere was not asked
                assert not {"units", "cost_nanodollars", "attempts"} & row.keys(), row
                continue
            assert row.get("units", {}) in calls.billed.get(id, calls.billed_by(row)), row
            assert cost_is_exact(row), row
            assert len(row["attempts"]) == 1, row  # nothing is repeated here
        asyncio.run(same_on_postgresql(url))
