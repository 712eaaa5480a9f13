"""The sums of the ledger's rows, which reports read.

    add             adds to them, in the transaction of the rows
    usage           sums by one thing, over a time
    delete_old      deletes hourly sums that are too old, a day at a time

Sums are kept by hour and by day, thrice: by everything but the end user (Scope.CALLS), by the end user alone
(Scope.END_USERS), and by model, method and fault (Scope.MODELS), of which there are few however many keys call. A sum
for each combination of all would be as many rows as there are calls. Reports read days where they can and hours at the
edges.
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from operator import itemgetter
from typing import Any

from msgspec import Struct
from msgspec.structs import astuple
from sqlalchemy import BigInteger, Connection, Double, Integer, Text, and_, delete, func, select, union_all

from gateway.store.tables import LATENCY_COLUMNS, LEDGER_SUMS

HOUR, DAY = 3600, 86_400

OTHER_END_USERS = "(other)"
"""Counts the end users of an hour beyond those that are counted by name."""


# The numbers are stored: none of them may change its meaning.
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

# By the order of the fields: those before are counted of all calls.
COUNTED_UNITS = SUMMED[9:]
"""Cohere's units that have a sum of their own."""


# --- writing --------------------------------------------------------------------------------------------------


def add(connection: Connection, sums: Mapping[SumKey, Sums]) -> None:
    """Adds to the sums that there are."""
    # In order, so that no two transactions wait for each other.
    ordered = sorted(((astuple(key), key) for key in sums), key=itemgetter(0))
    # A statement each, since one has more columns.
    for latency in (False, True):
        some = [_sums_row(values, sums[key], latency) for values, key in ordered if counts_latency(key) is latency]
        if some:
            _add_sums(connection, some, latency)


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
        # With arrays the text is the same for any number of rows, so the driver prepares it once.
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


# --- reading --------------------------------------------------------------------------------------------------


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
        # By the start, which is the last of the groups.
        query = query.order_by(groups[-1])
    else:
        # By the key in the end, so that a limit cuts the same groups off each time.
        query = query.order_by(func.sum(all_parts.c.cost).desc(), func.sum(all_parts.c.calls).desc(), *groups)
    if limit is not None:
        query = query.limit(limit)
    rows = connection.execute(query).mappings().all()
    # Where there are no groups, SQL answers with one row of NULLs for no rows.
    return [dict(row) for row in rows if row["calls"]]


def _start(by: Sequence[str]) -> int | None:
    return HOUR if "hour" in by else DAY if "day" in by else None


def _periods(since: int, until: int, hourly: bool) -> list[tuple[int, int, int]]:
    """Returns which sums cover a time: their length in seconds, the first start, and the start that is too late."""
    # Up for the first and down for the last: only whole days have a sum of days within.
    first_day, last_day = -(-since // DAY) * DAY, until // DAY * DAY
    if hourly or first_day >= last_day:
        return [(HOUR, since, until)]
    edges = [(HOUR, since, first_day), (DAY, first_day, last_day), (HOUR, last_day, until)]
    return [period for period in edges if period[1] < period[2]]


def delete_old(connection: Connection, before: int) -> bool:
    """Deletes the hourly sums of the oldest day that is too old. Returns whether there may be more."""
    hourly = and_(LEDGER_SUMS.c.scope.in_([int(scope) for scope in Scope]), LEDGER_SUMS.c.seconds == HOUR)
    oldest = connection.scalar(select(func.min(LEDGER_SUMS.c.start)).where(hourly))
    if oldest is None or oldest >= before:
        return False
    connection.execute(delete(LEDGER_SUMS).where(hourly, LEDGER_SUMS.c.start < min(before, oldest + DAY)))
    return True
