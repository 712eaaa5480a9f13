"""The ledger's rows in the database: how they are written, and how they go when they are too old.

    insert          adds rows and counts them in the sums, in one transaction; rows that are there already are skipped
    find_body       the bodies of one call
    delete_body     deletes them
    delete_old      deletes rows and hourly sums that are too old, a batch at a time; delete_old_bodies

A row is wide for filters and has everything once more as JSON. How rows are found is in `ledger_pages.py`, their sums
are in `ledger_sums.py`.

On PostgreSQL a day of rows is a partition, which goes as a whole. On SQLite the ledger has a file of its own: a group
of rows would hold up those who wait to store a response, and only a file that began with it gives its pages back.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from msgspec import Struct
from msgspec.structs import astuple
from sqlalchemy import ColumnElement, Connection, Table, and_, delete, select
from sqlalchemy.util import await_only

from gateway.store import ledger_sums
from gateway.store.ledger_sums import DAY, SumKey, Sums
from gateway.store.tables import LEDGER, LEDGER_BODIES

MICROSECONDS = 1_000_000

DELETED_ROWS, DELETED_BODIES = 2_000, 100
"""Rows, and bodies, that one transaction deletes on SQLite."""

ROWS_OF_A_STATEMENT = (64, 8, 1)
"""Rows that one statement inserts into SQLite, which takes 32,766 values at most."""

SEGMENT_ROWS = 8_000
"""Rows of a segment on SQLite, about. Its index of request ids has one segment after the other.

In one index of all rows, a random request id of a caller's changes a page that no other row of its group does. A
segment has few pages. Whoever looks for an id looks in each segment, so they must not be many either.
"""

# Twice what `timeouts.total` may be at most.
MAX_CALL_SECONDS = 2 * DAY
"""From the id of a row, which begins with the time at which its call began, to the row's own time."""


class StoredRow(Struct, frozen=True):
    """A row. at: microseconds since 1970. cost: nano-dollars, None where unknown. entry: the whole row as JSON.

    labels: tags and metadata, to find rows by: `label_of` each, with line breaks around them.
    """

    at: int
    id: str
    request_id: str
    key_id: str | None
    team_id: str | None
    user_id: str | None
    end_user: str | None
    method: str | None
    model: str | None
    status: int
    fault: str | None
    cost: int | None
    total_ms: float
    sentence: str
    entry: bytes
    labels: str | None = None


class StoredBody(Struct, frozen=True):
    """The sealed bodies of one call. at, id: of its row."""

    at: int
    id: str
    body: bytes


def label_of(name: str, value: str) -> str:
    """Returns what stands among the labels of a row for a tag, whose name is empty, or a name and value of metadata."""
    return f"{name}={value}"


def labels_of(tags: Iterable[str], metadata: Mapping[str, str]) -> str | None:
    """Returns the labels of a row; None without any. Nothing in them has a line break."""
    labels = [label_of("", tag) for tag in tags] + [label_of(name, value) for name, value in metadata.items()]
    return "\n" + "\n".join(labels) + "\n" if labels else None


# --- writing --------------------------------------------------------------------------------------------------


def insert(
    connection: Connection,
    rows: Sequence[StoredRow],
    sums_of: Callable[[Sequence[StoredRow]], Mapping[SumKey, Sums]],
    repeated: bool = False,
    bodies: Sequence[StoredBody] = (),
    repeated_ids: Collection[str] = (),
) -> int:
    """Adds rows and counts them. Returns how many were new.

    sums_of: the sums of these rows. bodies: of some of them. repeated: some of the rows may be there already, because
    it is not known what became of an earlier attempt. repeated_ids: of rows that may be there with another time, since
    two processes may have seen the end of a call.
    """
    if repeated:
        present = _present(connection, rows)
        rows = [row for row in rows if (row.at, row.id) not in present]
    if repeated_ids:
        rows = [row for row in rows if row.id not in repeated_ids or not _is_present(connection, row)]
    if not rows:
        return 0
    _prepare_days(connection, LEDGER, {row.at // MICROSECONDS // DAY for row in rows})
    if bodies:
        new = {row.id for row in rows}
        # Of a row that was there already they came with it, if at all.
        bodies = [body for body in bodies if body.id in new]
        _prepare_days(connection, LEDGER_BODIES, {body.at // MICROSECONDS // DAY for body in bodies})
        _insert_rows(connection, LEDGER_BODIES, StoredBody.__struct_fields__, [astuple(body) for body in bodies])
    if connection.dialect.name == "sqlite":
        segment = _segment(connection)
        names = (*StoredRow.__struct_fields__, "segment")
        _insert_rows(connection, LEDGER, names, [(*astuple(row), segment) for row in rows])
    else:
        _insert_rows(connection, LEDGER, StoredRow.__struct_fields__, [astuple(row) for row in rows])
    # Of the new rows alone and with them, so that sums and rows always agree.
    ledger_sums.add(connection, sums_of(rows))
    return len(rows)


def _present(connection: Connection, rows: Sequence[StoredRow]) -> Collection[tuple[int, str]]:
    """Returns the positions of those of these rows that are there already."""
    first, last = min(row.at for row in rows), max(row.at for row in rows)
    ids = [row.id for row in rows]
    present: set[tuple[int, str]] = set()
    for offset in range(0, len(ids), 500):
        # The times let PostgreSQL look at these days alone, and SQLite at a part of its primary key.
        within = and_(LEDGER.c.at.between(first, last), LEDGER.c.id.in_(ids[offset : offset + 500]))
        present.update((at, id) for at, id in connection.execute(select(LEDGER.c.at, LEDGER.c.id).where(within)))
    return present


def _is_present(connection: Connection, row: StoredRow) -> bool:
    """Returns whether the row of this call is there, whenever it ended."""
    # With the request id, of which there is an index.
    same = _at_of(LEDGER, row.id), LEDGER.c.request_id == row.request_id
    return connection.scalar(select(LEDGER.c.at).where(*same).limit(1)) is not None


def _segment(connection: Connection) -> int:
    """Returns the segment of the rows that a transaction adds. SQLite lets one process write at a time."""
    # One look at the end of the table, however long it is.
    last: int | None = connection.exec_driver_sql(f"SELECT max(rowid) FROM {LEDGER.name}").scalar()  # noqa: S608
    return (last or 0) // SEGMENT_ROWS + 1


def _insert_rows(connection: Connection, table: Table, names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """Inserts new rows: on PostgreSQL by COPY, which takes a fifth of the CPU that an INSERT takes here."""
    if connection.dialect.name == "postgresql":
        # The transaction has begun, or COPY would be one of its own: `_prepare_days` has asked for partitions.
        driver: Any = connection.connection.driver_connection
        await_only(driver.copy_records_to_table(table.name, records=rows, columns=names))
    else:
        _insert_into_sqlite(connection, table.name, names, rows)


def _insert_into_sqlite(
    connection: Connection, table: str, names: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Inserts rows, many with each statement.

    The driver lets go of the interpreter's lock for each statement, and fights the event loop for it when that is done:
    a statement for each row takes three times the CPU of the whole.
    """
    marks = f"({', '.join('?' for _ in names)})"
    start = 0
    for count in ROWS_OF_A_STATEMENT:
        statement = f"INSERT INTO {table} ({', '.join(names)}) VALUES {', '.join([marks] * count)}"  # noqa: S608
        while len(rows) - start >= count:
            values = tuple(chain.from_iterable(rows[start : start + count]))
            connection.exec_driver_sql(statement, values)
            start += count


# --- PostgreSQL's partitions ----------------------------------------------------------------------------------

# Not the number of a migration (`migrations.LOCK`). Counters are locked by pairs, which PostgreSQL keeps apart.
_PARTITION_LOCK = 0x6C6564676572


def _prepare_days(connection: Connection, table: Table, days: Collection[int]) -> None:
    """Creates the partitions of these days since 1970 that are missing. Several processes may do so at once."""
    if connection.dialect.name != "postgresql":
        return
    names = {_partition(table, day): day for day in days}
    missing = set(names) - set(_partitions(connection, table, names))
    if not missing:
        return
    # IF NOT EXISTS is not enough: of two that create the same table at once, one would fail.
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_PARTITION_LOCK})")
    for name in sorted(missing):
        start = names[name] * DAY * MICROSECONDS
        connection.exec_driver_sql(
            f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF {table.name} "
            f"FOR VALUES FROM ({start}) TO ({start + DAY * MICROSECONDS})"
        )


def _partition(table: Table, day: int) -> str:
    return f"{table.name}_{datetime.fromtimestamp(day * DAY, UTC):%Y%m%d}"


def _partitions(connection: Connection, table: Table, names: Collection[str] | None = None) -> list[str]:
    """Returns the partitions there are, of these names or all, the oldest first."""
    statement = (
        "SELECT relname FROM pg_class JOIN pg_inherits ON pg_inherits.inhrelid = pg_class.oid "
        "WHERE inhparent = to_regclass($1) AND relname ~ $2 ORDER BY relname"
    )
    # What is called otherwise was not made here.
    values = (table.name, f"^{table.name}_[0-9]{{8}}$")
    present = [str(name) for (name,) in connection.exec_driver_sql(statement, values)]
    return present if names is None else [name for name in present if name in names]


def _drop_oldest(connection: Connection, table: Table, before: int) -> bool:
    """Drops the oldest partition if all of its day is before that second. Returns whether it did."""
    day = _partition(table, before // DAY)
    old = [name for name in _partitions(connection, table) if name < day]
    # One in a transaction: until it is committed, dropping a partition keeps everybody else from the whole table.
    if old:
        connection.exec_driver_sql(f"DROP TABLE {old[0]}")
    return bool(old)


# --- bodies ---------------------------------------------------------------------------------------------------


def find_body(connection: Connection, id: str) -> StoredBody | None:
    """Returns the sealed bodies of the call whose row has this id, of 24 hex digits."""
    row = connection.execute(select(LEDGER_BODIES).where(_at_of(LEDGER_BODIES, id))).first()
    return StoredBody(row.at, row.id, row.body) if row is not None else None


def delete_body(connection: Connection, id: str) -> bool:
    """Deletes the bodies of one call. Returns whether there were any."""
    return bool(connection.execute(delete(LEDGER_BODIES).where(_at_of(LEDGER_BODIES, id))).rowcount)


def _at_of(table: Table, id: str) -> ColumnElement[bool]:
    """Returns the condition that finds a row by its id, within the time in which its call can have ended."""
    began = began_of(id)
    return and_(table.c.at.between(began, began + MAX_CALL_SECONDS * MICROSECONDS), table.c.id == id)


def began_of(id: str) -> int:
    """Returns when the call of an id began, in microseconds; 0 for what is no id. Its row has the time of its end."""
    try:
        return int(id[:12], 16) * 1000
    except ValueError:
        return 0


# --- retention ------------------------------------------------------------------------------------------------


def delete_old(connection: Connection, before: int) -> bool:
    """Deletes a batch of what is older than `before`, in Unix seconds. Returns whether there may be more.

    Daily sums stay. On PostgreSQL a partition goes when all of its day is too old.
    """
    if connection.dialect.name == "postgresql":
        # One of the two in a transaction, so that each is short.
        return _drop_oldest(connection, LEDGER, before) or ledger_sums.delete_old(connection, before)
    deleted = _delete_batch(connection, LEDGER, before, DELETED_ROWS)
    more = ledger_sums.delete_old(connection, before)
    _give_back(connection)
    return deleted or more


def delete_old_bodies(connection: Connection, before: int) -> bool:
    """Deletes a batch of bodies that are older than `before`, in Unix seconds. Returns whether there may be more."""
    if connection.dialect.name == "postgresql":
        return _drop_oldest(connection, LEDGER_BODIES, before)
    deleted = _delete_batch(connection, LEDGER_BODIES, before, DELETED_BODIES)
    _give_back(connection)
    return deleted


def _delete_batch(connection: Connection, table: Table, before: int, count: int) -> bool:
    """Deletes so many of the oldest rows from SQLite. Returns whether there may be more."""
    # By row ids: SQLite knows no LIMIT in a DELETE unless it was built for it.
    statement = f"DELETE FROM {table.name} WHERE rowid IN (SELECT rowid FROM {table.name} WHERE at < ? LIMIT ?)"  # noqa: S608
    return connection.exec_driver_sql(statement, (before * MICROSECONDS, count)).rowcount == count


def _give_back(connection: Connection) -> None:
    """Returns free pages of SQLite's file to the disk.

    A script, because `execute` makes one step of a statement without columns, which here is one page. It commits what
    was deleted first.
    """
    driver: Any = connection.connection.dbapi_connection
    driver.executescript(f"PRAGMA incremental_vacuum({DELETED_ROWS})")
