"""The ledger in the database: rows, and the sums of usage that reports read.

    insert          adds rows and counts them in the sums, in one transaction; rows that are there already are skipped
    page            rows, newest first, by filters
    newer           how many rows there are after a position
    find_body       the bodies of one call
    usage           sums by one thing, over a time
    delete_old      rows and hourly sums that are too old, a batch at a time; delete_old_bodies, delete_body

A row is wide for filters and has everything once more as JSON. Sums are kept by hour and by day, thrice: by everything
but the end user (Scope.CALLS), by the end user alone (Scope.END_USERS), and by model, method and fault (Scope.MODELS),
of which there are few however many keys call. A sum for each combination of all would be as many rows as there are
calls. Reports read days where they can and hours at the edges.

On PostgreSQL a day of rows is a partition, which goes as a whole. On SQLite the ledger has a file of its own: a group
of rows would hold up those who wait to store a response, and only a file that began with it gives its pages back.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from itertools import chain
from operator import itemgetter
from typing import Any

from msgspec import Struct
from msgspec.structs import astuple
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Double,
    Integer,
    Select,
    Table,
    Text,
    and_,
    delete,
    func,
    literal,
    or_,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.util import await_only

from gateway.store.tables import LATENCY_COLUMNS, LEDGER, LEDGER_BODIES, LEDGER_SUMS

HOUR, DAY = 3600, 86_400
MICROSECONDS = 1_000_000

SCANNED_ROWS = 10_000
"""Rows that one page looks at where no index answers its filters. The page after it goes on behind them."""

SCANS = (500, 2_500, 7_000)
"""The same in steps: most filters find a page of rows among few."""

POSITIONS_OF_ID = 500_000
"""Rows that may have ended between the begin of a call and its end, where a row is looked for by its id."""

DELETED_ROWS, DELETED_BODIES = 2_000, 100
"""Rows, and bodies, that one transaction deletes on SQLite."""

ROWS_OF_A_STATEMENT = (64, 8, 1)
"""Rows that one statement inserts into SQLite, which takes 32,766 values at most."""

OTHER_END_USERS = "(other)"
"""Counts the end users of an hour beyond those that are counted by name."""


MAX_CALL_SECONDS = 2 * DAY
"""From the id of a row, which begins with the time at which its call began, to the row's own time."""

NEWER_ROWS = 1000
"""Rows after a position that are counted; of more it is known that there are more."""


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


class Scope(IntEnum):
    """What a sum is of."""

    CALLS = 0
    END_USERS = 1
    MODELS = 2


class SumKey(Struct, frozen=True):
    """What a sum is by. start: Unix seconds, of a whole period. seconds: HOUR or DAY. Empty where it does not apply."""

    scope: int
    seconds: int
    start: int
    key_id: str = ""
    team_id: str = ""
    user_id: str = ""
    end_user: str = ""
    model: str = ""
    method: str = ""
    fault: str = ""


class Sums(Struct):
    """What is added up. tokens as callers see them; the other units are those that Cohere bills. cost: nano-dollars.

    latencies: how many of the calls that were served took so long, by LATENCY_COLUMNS; empty without any.
    """

    calls: int = 0
    failures: int = 0
    unpriced_calls: int = 0
    cost: int = 0
    total_ms: float = 0.0
    input: int = 0
    output: int = 0
    cached: int = 0
    thinking: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    search_units: float = 0
    images: float = 0
    image_tokens: float = 0
    pages: float = 0
    classifications: float = 0
    audio_seconds: float = 0
    latencies: list[int] = []


SUMMED = Sums.__struct_fields__[:-1]
"""What reports always read, latencies apart."""

COUNTED_UNITS = SUMMED[9:]
"""Cohere's units that have a sum of their own."""


class Position(Struct, frozen=True):
    """Of a row in the order of time."""

    at: int
    id: str


class Filter(Struct, frozen=True):
    """Which rows are wanted. since, until: microseconds, the second excluded. min_cost: nano-dollars.

    slower_than: milliseconds. text: in the sentence, in any case of letters. status: 0 for any, 1 to 9 for a class of
    them, such as 4 for 400 to 499. failed: only rows of failures. labels: the row has all of these (`label_of`).
    notes: whether the row has notes; None for any.
    """

    id: str | None = None
    request_id: str | None = None
    key_id: str | None = None
    team_id: str | None = None
    user_id: str | None = None
    end_user: str | None = None
    method: str | None = None
    model: str | None = None
    status: int = 0
    fault: str | None = None
    min_cost: int | None = None
    slower_than: float | None = None
    text: str = ""
    since: int | None = None
    until: int | None = None
    failed: bool = False
    labels: Sequence[str] = ()
    notes: bool | None = None


def label_of(name: str, value: str) -> str:
    """Returns what stands among the labels of a row for a tag, whose name is empty, or a name and value of metadata."""
    return f"{name}={value}"


def labels_of(tags: Iterable[str], metadata: Mapping[str, str]) -> str | None:
    """Returns the labels of a row; None without any. Nothing in them has a line break."""
    labels = [label_of("", tag) for tag in tags] + [label_of(name, value) for name, value in metadata.items()]
    return "\n" + "\n".join(labels) + "\n" if labels else None


class Page(Struct, frozen=True):
    """Rows as JSON, newest first. next: where the page after this one begins; None if this is the last."""

    entries: Sequence[bytes]
    next: Position | None


# --- writing --------------------------------------------------------------------------------------------------


def insert(
    connection: Connection,
    rows: Sequence[StoredRow],
    sums_of: Callable[[Sequence[StoredRow]], Mapping[SumKey, Sums]],
    repeated: bool = False,
    bodies: Sequence[StoredBody] = (),
) -> int:
    """Adds rows and counts them. Returns how many were new.

    sums_of: the sums of these rows. bodies: of some of them. repeated: some of the rows may be there already, because
    it is not known what became of an earlier attempt.
    """
    if repeated:
        present = _present(connection, rows)
        rows = [row for row in rows if (row.at, row.id) not in present]
    if not rows:
        return 0
    _prepare_days(connection, LEDGER, {row.at // MICROSECONDS // DAY for row in rows})
    if bodies:
        new = {row.id for row in rows}
        bodies = [body for body in bodies if body.id in new]
        _prepare_days(connection, LEDGER_BODIES, {body.at // MICROSECONDS // DAY for body in bodies})
        _insert_rows(connection, LEDGER_BODIES, [astuple(body) for body in bodies])
    _insert_rows(connection, LEDGER, [astuple(row) for row in rows])
    sums = sums_of(rows)
    # In order, so that no two transactions wait for each other.
    ordered = sorted(((astuple(key), key) for key in sums), key=itemgetter(0))
    for latency in (False, True):
        some = [_sums_row(values, sums[key], latency) for values, key in ordered if counts_latency(key) is latency]
        if some:
            _add_sums(connection, some, latency)
    return len(rows)


def _present(connection: Connection, rows: Sequence[StoredRow]) -> Collection[tuple[int, str]]:
    """Returns the positions of those of these rows that are there already."""
    first, last = min(row.at for row in rows), max(row.at for row in rows)
    ids = [row.id for row in rows]
    present: set[tuple[int, str]] = set()
    for offset in range(0, len(ids), 500):
        within = and_(LEDGER.c.at.between(first, last), LEDGER.c.id.in_(ids[offset : offset + 500]))
        present.update((at, id) for at, id in connection.execute(select(LEDGER.c.at, LEDGER.c.id).where(within)))
    return present


def _insert_rows(connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Inserts new rows: on PostgreSQL by COPY, which takes a fifth of the CPU that an INSERT takes here."""
    names = [column.name for column in table.columns]
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


def counts_latency(key: SumKey) -> bool:
    """Returns whether a sum also counts how long calls took.

    Such a sum has more numbers than one without, so it is where there are few: by models, and by keys for whole days.
    """
    return key.scope == Scope.MODELS or (key.scope == Scope.CALLS and key.seconds == DAY)


_NO_LATENCIES = (0,) * len(LATENCY_COLUMNS)


def _sums_row(key: tuple[Any, ...], sums: Sums, latency: bool) -> tuple[Any, ...]:
    *amounts, latencies = astuple(sums)
    return (*key, *amounts, *((latencies or _NO_LATENCIES) if latency else ()))


def _add_sums(connection: Connection, rows: Sequence[tuple[Any, ...]], latency: bool) -> None:
    """Adds to sums, or makes them: on PostgreSQL with one statement, whose parameters are columns.

    latency: the rows have LATENCY_COLUMNS. Where they have not, these stay as they are.
    """
    statement = _ADD_SUMS[connection.dialect.name, latency]
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(statement, tuple(map(list, zip(*rows, strict=True))))
    else:
        connection.exec_driver_sql(statement, list(rows))


_POSTGRESQL_TYPES = {BigInteger: "bigint", Integer: "int", Text: "text", Double: "float8"}


def _add_statement(dialect: str, latency: bool) -> str:
    table = LEDGER_SUMS.name
    summed = (*SUMMED, *LATENCY_COLUMNS) if latency else SUMMED
    columns = [LEDGER_SUMS.c[name] for name in (*SumKey.__struct_fields__, *summed)]
    names = ", ".join(column.name for column in columns)
    keys = ", ".join(SumKey.__struct_fields__)
    added = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in summed)
    conflict = f"ON CONFLICT ({keys}) DO UPDATE SET {added}"
    if dialect == "sqlite":
        marks = ", ".join("?" for _ in columns)
        return f"INSERT INTO {table} ({names}) VALUES ({marks}) {conflict}"  # noqa: S608
    kinds = [_POSTGRESQL_TYPES[type(column.type)] for column in columns]
    arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(kinds, 1))
    return f"INSERT INTO {table} ({names}) SELECT * FROM unnest({arrays}) {conflict}"  # noqa: S608


_ADD_SUMS: Mapping[tuple[str, bool], str] = {
    (dialect, latency): _add_statement(dialect, latency)
    for dialect in ("sqlite", "postgresql")
    for latency in (False, True)
}


# --- PostgreSQL's partitions ----------------------------------------------------------------------------------

_PARTITION_LOCK = 0x6C6564676572


def _prepare_days(connection: Connection, table: Table, days: Collection[int]) -> None:
    """Creates the partitions of these days since 1970 that are missing. Several processes may do so at once."""
    if connection.dialect.name != "postgresql":
        return
    names = {_partition(table, day): day for day in days}
    missing = set(names) - set(_partitions(connection, table, names))
    if not missing:
        return
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
    values = (table.name, f"^{table.name}_[0-9]{{8}}$")
    present = [str(name) for (name,) in connection.exec_driver_sql(statement, values)]
    return present if names is None else [name for name in present if name in names]


def _drop_oldest(connection: Connection, table: Table, before: int) -> bool:
    """Drops the oldest partition if all of its day is before that second. Returns whether it did."""
    day = _partition(table, before // DAY)
    old = [name for name in _partitions(connection, table) if name < day]
    if old:
        connection.exec_driver_sql(f"DROP TABLE {old[0]}")
    return bool(old)


# --- reading --------------------------------------------------------------------------------------------------

_INDEXED = ("request_id", "key_id", "team_id", "end_user", "fault")
"""Filters that an index answers in the order of time."""

_EQUAL = (*_INDEXED, "user_id", "method", "model")


class _met_by_few(FunctionElement[Any]):
    """A condition that few rows meet, whatever SQLite's statistics say.

    After ANALYZE, SQLite reads all rows in the order of time rather than the index of one of a few teams, because it
    expects to find that team soon. A team that has been silent for a while is found after a million rows.
    """

    inherit_cache = True  # of no type: SQLAlchemy writes `= 1` behind a function that is a Boolean


@compiles(_met_by_few)
def _plain(element: _met_by_few, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))


@compiles(_met_by_few, "sqlite")
def _likelihood(element: _met_by_few, compiler: Any, **options: Any) -> str:
    return f"likelihood({compiler.process(element.clauses, **options)}, 0.0001)"


class _position_of_notes(FunctionElement[int]):
    """Where the notes begin in a row as JSON; 0 for a row without any.

    The name of an empty field is left out of the JSON, and a text in it cannot have a quote that is not escaped.
    """

    inherit_cache = True
    type = BigInteger()


_NOTES = b',"notes":['.hex()


@compiles(_position_of_notes, "sqlite")
def _sqlite_position(element: _position_of_notes, compiler: Any, **options: Any) -> str:
    return f"instr({compiler.process(element.clauses, **options)}, x'{_NOTES}')"


@compiles(_position_of_notes, "postgresql")
def _postgresql_position(element: _position_of_notes, compiler: Any, **options: Any) -> str:
    return f"position('\\x{_NOTES}'::bytea in {compiler.process(element.clauses, **options)})"


def page(connection: Connection, wanted: Filter, before: Position | None, limit: int) -> Page:
    """Returns at most `limit` rows that are older than a position. A page may be short, and have one after it."""
    if wanted.id is not None:
        return _page_of_id(connection, wanted, wanted.id, before)
    indexed = _indexed(wanted)
    if not list(_conditions(wanted, indexed)):
        rows = connection.execute(_newest(wanted, before, indexed).limit(limit + 1)).all()
        more = rows[limit - 1] if len(rows) > limit else None
        return Page([row.entry for row in rows[:limit]], Position(more.at, more.id) if more is not None else None)
    entries: list[bytes] = []
    for count in SCANS:
        part = _scan(connection, wanted, before, limit - len(entries), count)
        entries += part.entries
        before = part.next
        if before is None or len(entries) >= limit:
            break
    return Page(entries, before)


def _newest(wanted: Filter, before: Position | None, indexed: str | None) -> Select[Any]:
    """Selects rows by what an index answers, the newest first."""
    columns = LEDGER.c
    base: list[ColumnElement[bool]] = []
    if wanted.since is not None:
        base.append(columns.at >= wanted.since)
    if wanted.until is not None:
        base.append(columns.at < wanted.until)
    if before is not None:
        base.append(columns.at <= before.at)  # for the index and for partitions, which row values do not choose
        base.append(tuple_(columns.at, columns.id) < tuple_(literal(before.at), literal(before.id)))
    if indexed is not None:
        base.append(_met_by_few(columns[indexed] == getattr(wanted, indexed)))
    return select(LEDGER).where(*base).order_by(columns.at.desc(), columns.id.desc())


def _scan(connection: Connection, wanted: Filter, before: Position | None, limit: int, count: int) -> Page:
    """Returns those rows that meet all filters of the next so many that meet what an index answers."""
    indexed = _indexed(wanted)
    newest = _newest(wanted, before, indexed)
    inner = newest.limit(count).subquery()
    matching = select(inner.c.at, inner.c.id, inner.c.entry).where(*_conditions(wanted, indexed, inner))
    matches = connection.execute(matching.order_by(inner.c.at.desc(), inner.c.id.desc()).limit(limit + 1)).all()
    if len(matches) > limit:
        last = matches[limit - 1]
        return Page([row.entry for row in matches[:limit]], Position(last.at, last.id))
    end = connection.execute(newest.with_only_columns(LEDGER.c.at, LEDGER.c.id).limit(1).offset(count - 1)).first()
    return Page([row.entry for row in matches], Position(end.at, end.id) if end is not None else None)


def _page_of_id(connection: Connection, wanted: Filter, id: str, before: Position | None) -> Page:
    """Returns the row of an id, if it meets the other filters. It is among those that ended since its call began."""
    if before is not None:
        return Page([], None)
    columns, began = LEDGER.c, began_of(id)
    within = columns.at.between(began, began + MAX_CALL_SECONDS * MICROSECONDS)
    positions = select(columns.at, columns.id).where(within).order_by(columns.at).limit(POSITIONS_OF_ID).subquery()
    at = connection.scalar(select(positions.c.at).where(positions.c.id == id).limit(1))
    if at is None:
        return Page([], None)
    conditions = list(_conditions(wanted, None))
    if wanted.since is not None:
        conditions.append(columns.at >= wanted.since)
    if wanted.until is not None:
        conditions.append(columns.at < wanted.until)
    entry = connection.scalar(select(columns.entry).where(columns.at == at, *conditions))
    return Page([entry] if entry is not None else [], None)


def _indexed(wanted: Filter) -> str | None:
    """Returns the filter that an index answers, if there is one."""
    return next((name for name in _INDEXED if getattr(wanted, name) is not None), None)


def _conditions(wanted: Filter, indexed: str | None, table: Any = LEDGER) -> Iterable[ColumnElement[bool]]:
    columns = table.c
    for name in _EQUAL:
        if name != indexed and (value := getattr(wanted, name)) is not None:
            yield columns[name] == value
    if wanted.id is not None:
        yield columns.id == wanted.id
    if 0 < wanted.status < 10:
        yield columns.status.between(wanted.status * 100, wanted.status * 100 + 99)
    elif wanted.status:
        yield columns.status == wanted.status
    if wanted.failed:
        yield columns.fault.is_not(None)
    if wanted.min_cost is not None:
        yield columns.cost >= wanted.min_cost
    if wanted.slower_than is not None:
        yield columns.total_ms > wanted.slower_than
    if wanted.text:
        yield _contains(columns.sentence, wanted.text)
    for label in wanted.labels:
        # Not LIKE, which on SQLite takes `a` for `A`.
        yield func.replace(columns.labels, f"\n{label}\n", "") != columns.labels
    if wanted.notes is not None:
        position = _position_of_notes(columns.entry)
        yield position > 0 if wanted.notes else position == 0


def _contains(column: ColumnElement[str], text: str) -> ColumnElement[bool]:
    """Returns the condition that a column has a text in it, in any case of letters."""
    lowered = func.lower(column).contains(text.lower(), autoescape=True)
    # As it is written, too: SQLite's `lower` knows the letters of ASCII alone.
    return lowered if text.isascii() else or_(lowered, column.contains(text, autoescape=True))


def began_of(id: str) -> int:
    """Returns when the call of an id began, in microseconds; 0 for what is no id. Its row has the time of its end."""
    try:
        return int(id[:12], 16) * 1000
    except ValueError:
        return 0


def newer(connection: Connection, wanted: Filter, after: Position) -> int:
    """Counts the rows behind a position in time, NEWER_ROWS at most, among the SCANNED_ROWS that came next."""
    columns = LEDGER.c
    base = [
        columns.at >= after.at,
        or_(columns.at > after.at, columns.id > after.id),
        *([columns.at < wanted.until] if wanted.until is not None else []),
    ]
    indexed = _indexed(wanted)
    if indexed is not None:
        base.append(_met_by_few(columns[indexed] == getattr(wanted, indexed)))
    rest = list(_conditions(wanted, indexed))
    inner = select(LEDGER).where(*base).order_by(columns.at).limit(SCANNED_ROWS if rest else NEWER_ROWS).subquery()
    matching = select(inner.c.at).where(*_conditions(wanted, indexed, inner)).limit(NEWER_ROWS).subquery()
    return connection.scalar(select(func.count()).select_from(matching)) or 0


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


_OF_MODELS = frozenset(("model", "method", "fault", "hour", "day"))
"""What Scope.MODELS can say."""


def scope_of(by: Sequence[str], where: Mapping[str, str]) -> Scope:
    """Returns which sums say what is asked by some of SumKey's names."""
    if "end_user" in by or "end_user" in where:
        return Scope.END_USERS
    return Scope.MODELS if _OF_MODELS.issuperset((*by, *where)) else Scope.CALLS


def usage(
    connection: Connection,
    by: Sequence[str],
    since: int,
    until: int,
    where: Mapping[str, str],
    limit: int | None = None,
    latency: bool = False,
) -> list[Mapping[str, Any]]:
    """Returns sums by some of SumKey's names, with `start` by hour where `by` has `hour`, by day where it has `day`.

    since, until: Unix seconds of whole hours, the second excluded. where: what the sums must be of; end users are
    counted by nothing else. limit: of groups, those that cost most. latency: with LATENCY_COLUMNS, of which there are
    twice as many as of all else.
    """
    scope = scope_of(by, where)
    columns = LEDGER_SUMS.c
    names = [name for name in by if name not in ("hour", "day")]
    start = _start(by)
    fixed = [columns[name] == value for name, value in where.items()]
    summed = (*SUMMED, *LATENCY_COLUMNS) if latency else SUMMED
    wanted = [columns[name] for name in (*names, *summed)]
    parts = [
        select(columns.start, *wanted).where(
            columns.scope == int(scope),
            columns.seconds == seconds,
            columns.start >= first,
            columns.start < last,
            *fixed,
        )
        for seconds, first, last in _periods(since, until, "hour" in by)
    ]
    all_parts = union_all(*parts).subquery() if len(parts) > 1 else parts[0].subquery()
    groups = [all_parts.c[name] for name in names]
    if start is not None:
        groups.append((all_parts.c.start - all_parts.c.start % start).label("start"))
    sums = [func.sum(all_parts.c[name]).label(name) for name in summed]
    query = select(*groups, *sums).group_by(*groups)
    if start is not None:
        query = query.order_by(groups[-1])
    else:
        query = query.order_by(func.sum(all_parts.c.cost).desc(), func.sum(all_parts.c.calls).desc(), *groups)
    if limit is not None:
        query = query.limit(limit)
    rows = connection.execute(query).mappings().all()
    return [dict(row) for row in rows if row["calls"]]


def _start(by: Sequence[str]) -> int | None:
    return HOUR if "hour" in by else DAY if "day" in by else None


def _periods(since: int, until: int, hourly: bool) -> list[tuple[int, int, int]]:
    """Returns which sums cover a time: their length in seconds, the first start, and the start that is too late."""
    first_day, last_day = -(-since // DAY) * DAY, until // DAY * DAY
    if hourly or first_day >= last_day:
        return [(HOUR, since, until)]
    edges = [(HOUR, since, first_day), (DAY, first_day, last_day), (HOUR, last_day, until)]
    return [period for period in edges if period[1] < period[2]]


def bounds(connection: Connection) -> tuple[int, int] | None:
    """Returns the first and the last hour that has a sum, in Unix seconds; None of an empty ledger."""
    within = and_(LEDGER_SUMS.c.scope == int(Scope.CALLS), LEDGER_SUMS.c.seconds == DAY)
    first, last = connection.execute(
        select(func.min(LEDGER_SUMS.c.start), func.max(LEDGER_SUMS.c.start)).where(within)
    ).one()
    return None if first is None else (int(first), int(last) + DAY)


# --- retention ------------------------------------------------------------------------------------------------


def delete_old(connection: Connection, before: int) -> bool:
    """Deletes a batch of what is older than `before`, in Unix seconds. Returns whether there may be more.

    Daily sums stay. On PostgreSQL a partition goes when all of its day is too old.
    """
    if connection.dialect.name == "postgresql":
        return _drop_oldest(connection, LEDGER, before) or _delete_sums(connection, before)
    deleted = _delete_batch(connection, LEDGER, before, DELETED_ROWS)
    more = _delete_sums(connection, before)
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
    statement = f"DELETE FROM {table.name} WHERE rowid IN (SELECT rowid FROM {table.name} WHERE at < ? LIMIT ?)"  # noqa: S608
    return connection.exec_driver_sql(statement, (before * MICROSECONDS, count)).rowcount == count


def _give_back(connection: Connection) -> None:
    """Returns free pages of SQLite's file to the disk.

    A script, because `execute` makes one step of a statement without columns, which here is one page. It commits what
    was deleted first.
    """
    driver: Any = connection.connection.dbapi_connection
    driver.executescript(f"PRAGMA incremental_vacuum({DELETED_ROWS})")


def _delete_sums(connection: Connection, before: int) -> bool:
    """Deletes the hourly sums of the oldest day that is too old. Returns whether there may be more."""
    hourly = and_(LEDGER_SUMS.c.scope.in_([int(scope) for scope in Scope]), LEDGER_SUMS.c.seconds == HOUR)
    oldest = connection.scalar(select(func.min(LEDGER_SUMS.c.start)).where(hourly))
    if oldest is None or oldest >= before:
        return False
    connection.execute(delete(LEDGER_SUMS).where(hourly, LEDGER_SUMS.c.start < min(before, oldest + DAY)))
    return True
