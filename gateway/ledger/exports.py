"""A file of all rows that a filter meets: `/audit/export`, as CSV or as JSON Lines, written a page at a time.

No more than a page of it is in memory. A file that ends before its rows do says so in its last row, which is of the
kind `more` and has the cursor where the next file begins.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from gateway.ledger import report_query, reports
from gateway.ledger.entry import Bytes, LedgerEntry, Tokens
from gateway.ledger.report_query import EXPORT_PARAMETERS, MAX_LIMIT
from gateway.ledger.reports import Report, Row, as_csv
from gateway.store.ledger_sums import COUNTED_UNITS
from translators.core.errors import InvalidField

MAX_ROWS = 100_000
"""Rows of one file."""

CSV, JSON_LINES = "csv", "jsonl"

CONTENT_TYPES: Mapping[str, bytes] = {CSV: b"text/csv; charset=utf-8", JSON_LINES: b"application/x-ndjson"}

MORE = "more"
"""The kind of the row that ends a file before its rows do."""

_COUNTS: Mapping[str, Sequence[str]] = {
    "units": (*COUNTED_UNITS, "other"),
    "tokens": Tokens.__struct_fields__,
    "bytes": Bytes.__struct_fields__,
}

COLUMNS = (
    *(
        f"{name}.{part}" if part else name
        for name in LedgerEntry.__struct_fields__
        if name != "at"
        for part in _COUNTS.get(name, ("",))
    ),
    *("action", "object.kind", "object.id", "before", "after", "next_cursor"),
)
"""Of the CSV, the same for every file. The last five before `next_cursor`, which MORE has, are of changes."""


def format_of(query: Mapping[str, str]) -> str:
    """Returns what a file is made of, `csv` where nothing else is asked for. Raises InvalidField."""
    form = query.get("format") or CSV
    if form not in CONTENT_TYPES:
        raise InvalidField("format", f"'format' must be '{CSV}' or '{JSON_LINES}'")
    return form


async def export(report: Report) -> AsyncGenerator[bytes, None]:
    """Yields a file, a page of rows at a time, newest first. Raises InvalidField before anything else.

    Raises StoreUnavailable, at any page: what came before is then no whole file.
    """
    query = dict(report.query)
    report_query.require_known(query, EXPORT_PARAMETERS)
    encode = _csv_lines if format_of(query) == CSV else _json_lines
    query.pop("format", None)
    count, first = 0, True
    while True:
        # So that the last page ends where the file does.
        limit = min(MAX_LIMIT, MAX_ROWS - count)
        page = await reports.audit(replace(report, query={**query, "limit": str(limit)}))
        rows, cursor = page["data"], page["next_cursor"]
        count += len(rows)
        ended = cursor is None or count >= MAX_ROWS
        if ended and cursor is not None:
            rows = [*rows, _more(count, cursor)]
        yield await asyncio.to_thread(encode, rows, first)
        if ended:
            return
        first, query["cursor"] = False, cursor


def _more(count: int, cursor: str) -> Row:
    sentence = f"There are more: a file has {count:,} rows, and the next one begins with this cursor."
    return {"kind": MORE, "sentence": sentence, "next_cursor": cursor}


def _json_lines(rows: Sequence[Row], first: bool) -> bytes:
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def _csv_lines(rows: Sequence[Row], first: bool) -> bytes:
    return as_csv([_with_columns(row) for row in rows], COLUMNS, first)


def _with_columns(row: Row) -> Row:
    """Returns a row whose names are all in COLUMNS."""
    # Of a change, or the row that says that there are more.
    if "units" not in row:
        return row
    units = row["units"]
    other = {name: amount for name, amount in units.items() if name not in COUNTED_UNITS}
    counted = {name: amount for name, amount in units.items() if name in COUNTED_UNITS}
    return {
        **row,
        "units": {**counted, "other": other},
        # As JSON: its names are the callers', and each would be a column.
        "metadata": msgspec.json.encode(row["metadata"]).decode() if row["metadata"] else "",
    }
