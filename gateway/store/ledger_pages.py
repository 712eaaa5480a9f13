"""Pages of the ledger: rows by filters, newest first.

    page            the rows that a filter wants, from a position on
    newer           how many rows there are after a position
    oldest          when the oldest row ended

A page reads an index from its position on. Where no index answers a filter, a page looks at a bounded number of rows.
"""

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

from msgspec import Struct
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Row,
    Select,
    func,
    literal,
    literal_column,
    or_,
    select,
    tuple_,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from gateway.store.ledger import MAX_CALL_SECONDS, MICROSECONDS, began_of
from gateway.store.tables import LEDGER

SCANNED_ROWS = 10_000
"""Rows that one page looks at where no index answers its filters. The page after it goes on behind them."""

SCANS = (500, 2_500, 7_000)
"""The same in steps: most filters find a page of rows among few."""

POSITIONS_OF_ID = 500_000
"""Rows that may have ended between the begin of a call and its end, where a row is looked for by its id."""

NEWER_ROWS = 1000
"""Rows after a position that are counted; of more it is known that there are more."""


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


class Page(Struct, frozen=True):
    """Rows as JSON, newest first. next: where the page after this one begins; None if this is the last."""

    entries: Sequence[bytes]
    next: Position | None


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
        # One more than the page has: it says whether there is another page.
        rows = connection.execute(_newest(connection, wanted, before, limit + 1)).all()
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


def _newest(connection: Connection, wanted: Filter, before: Position | None, count: int) -> Select[Any]:
    """Selects at most so many rows by what an index answers, the newest first."""
    columns = LEDGER.c
    base: list[ColumnElement[bool]] = []
    if wanted.since is not None:
        base.append(columns.at >= wanted.since)
    if wanted.until is not None:
        base.append(columns.at < wanted.until)
    if before is not None:
        base.append(columns.at <= before.at)  # for the index and for partitions, which row values do not choose
        base.append(tuple_(columns.at, columns.id) < tuple_(literal(before.at), literal(before.id)))
    base = _met_by_index(connection, wanted, base, count)
    return select(LEDGER).where(*base).order_by(*_NEWEST_FIRST).limit(count)


_NEWEST_FIRST = (LEDGER.c.at.desc(), LEDGER.c.id.desc())


def _met_by_index(
    connection: Connection, wanted: Filter, times: Sequence[ColumnElement[bool]], count: int
) -> list[ColumnElement[bool]]:
    """Returns conditions on times, and with them the filter that an index answers.

    count: of rows. Where the index has no order of time, the conditions are met by so many of the newest, at least.
    """
    indexed = _indexed(wanted)
    if indexed is None:
        return list(times)
    conditions = [*times, _met_by_few(LEDGER.c[indexed] == getattr(wanted, indexed))]
    if indexed == "request_id" and connection.dialect.name == "sqlite":
        return [_met_by_few(_ROWID.in_(_found_in_segments(connection, conditions, count)))]
    return conditions


_ROWID = literal_column("ledger.rowid", Integer)


def _found_in_segments(connection: Connection, conditions: Sequence[ColumnElement[bool]], count: int) -> list[int]:
    """Returns SQLite's numbers of the newest rows that meet conditions: so many, or some more.

    conditions: on the request id and on times. Segments are read in the order of their newest rows, until the others
    have none that are new enough. They hardly overlap: rows are written when their calls have ended, or soon after.
    """
    rows: list[Row[Any]] = []
    columns = LEDGER.c
    for segment, newest in connection.execute(_segments(conditions)).all():
        if len(rows) >= count:
            # Of what was found so far the newest. No segment that follows has anything newer than `newest`.
            rows = sorted(rows, key=itemgetter(1, 2), reverse=True)[:count]
            if rows[-1].at > newest:
                break
        newest_rows = select(_ROWID, columns.at, columns.id).where(columns.segment == segment, *conditions)
        rows += connection.execute(newest_rows.order_by(*_NEWEST_FIRST).limit(count)).all()
    return [int(row[0]) for row in rows]


def _segments(conditions: Sequence[ColumnElement[bool]]) -> Select[Any]:
    """Selects the segments with rows that meet conditions, and the time of each one's newest; the newest first.

    It goes from a segment to the one before it: to read all rows of the index would take as long as the table is.
    """
    columns = LEDGER.c
    segments = select(func.max(columns.segment).label("number")).cte("segments", recursive=True)
    before = select(func.max(columns.segment)).where(columns.segment < segments.c.number).scalar_subquery()
    segments = segments.union_all(select(before).where(segments.c.number.is_not(None)))
    newest = select(func.max(columns.at)).where(columns.segment == segments.c.number, *conditions).scalar_subquery()
    each = select(segments.c.number, newest.label("newest")).subquery()
    return select(each).where(each.c.newest.is_not(None)).order_by(each.c.newest.desc())


def _scan(connection: Connection, wanted: Filter, before: Position | None, limit: int, count: int) -> Page:
    """Returns those rows that meet all filters of the next so many that meet what an index answers."""
    indexed = _indexed(wanted)
    newest = _newest(connection, wanted, before, count)
    # The other filters are asked of these rows alone. Else the search would go on through all there are.
    inner = newest.subquery()
    matching = select(inner.c.at, inner.c.id, inner.c.entry).where(*_conditions(wanted, indexed, inner))
    matches = connection.execute(matching.order_by(inner.c.at.desc(), inner.c.id.desc()).limit(limit + 1)).all()
    if len(matches) > limit:
        last = matches[limit - 1]
        return Page([row.entry for row in matches[:limit]], Position(last.at, last.id))
    # Nothing more was found among these. The last of them is where the next look begins, if there were so many.
    end = connection.execute(newest.with_only_columns(LEDGER.c.at, LEDGER.c.id).limit(1).offset(count - 1)).first()
    return Page([row.entry for row in matches], Position(end.at, end.id) if end is not None else None)


def _page_of_id(connection: Connection, wanted: Filter, id: str, before: Position | None) -> Page:
    """Returns the row of an id, if it meets the other filters. It is among those that ended since its call began."""
    if before is not None:
        return Page([], None)
    columns, began = LEDGER.c, began_of(id)
    within = columns.at.between(began, began + MAX_CALL_SECONDS * MICROSECONDS)
    # The bound is on the rows that are looked at, so it stands in a query of its own. It reads the primary key alone.
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


def newer(connection: Connection, wanted: Filter, after: Position) -> int:
    """Counts the rows behind a position in time, NEWER_ROWS at most, among the SCANNED_ROWS that came next."""
    columns = LEDGER.c
    base = [
        columns.at >= after.at,
        or_(columns.at > after.at, columns.id > after.id),
        *([columns.at < wanted.until] if wanted.until is not None else []),
    ]
    indexed = _indexed(wanted)
    rest = list(_conditions(wanted, indexed))
    count = SCANNED_ROWS if rest else NEWER_ROWS
    base = _met_by_index(connection, wanted, base, count)
    # The oldest of them first: what is counted lies directly behind the position.
    inner = select(LEDGER).where(*base).order_by(columns.at).limit(count).subquery()
    matching = select(inner.c.at).where(*_conditions(wanted, indexed, inner)).limit(NEWER_ROWS).subquery()
    return connection.scalar(select(func.count()).select_from(matching)) or 0


def oldest(connection: Connection) -> int | None:
    """Returns when the oldest row ended, in microseconds; None of an empty ledger."""
    return connection.scalar(select(LEDGER.c.at).order_by(LEDGER.c.at).limit(1))
