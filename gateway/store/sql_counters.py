"""Counters in the database (`counters.Counters`), for all who share it: exact over processes and machines.

A row is an amount of one kind in one slot of time. On SQLite the workers of a machine take turns in short transactions;
on PostgreSQL one statement calls a function that was made with the table (`migrations/versions`), for all requests that
wait in a process. Budgets are kept
here in the same rows when something faster does the counting (`load_budgets`, `add_budgets`), so that they survive it.
"""

import asyncio
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, or_, select, text
from sqlalchemy.dialects import postgresql, sqlite

from gateway.durations import MOST_BUDGET_SECONDS
from gateway.store.counters import (
    LEASE,
    WINDOW,
    Counter,
    CounterState,
    CountersUnavailable,
    Decision,
    Past,
    Reservation,
    Server,
    Settlement,
)
from gateway.store.database import Database
from gateway.store.errors import StoreUnavailable
from gateway.store.tables import COUNTER_SLOTS, database_time

# Stored, and written as digits in PostgreSQL's functions: none may change.
ROLLING, RESERVED, MONEY, PROCESS, CLAIM, PROCESSES = 0, 1, 2, 3, 4, 5
"""Kinds of rows. The slot is: the second in which it was spent; the one in which the reservation lapses; the beginning
of the budget's window; the second until which a process counts as alive, whose id stands in the place of a counter; the
beginning of the window of which something is said once, whose words stand in that place; 0 for the number of processes
that were last seen where something faster counts."""

MAX_GROUP = 200
"""Requests that share a transaction."""

OLD_BUDGETS = 400 * 86_400
"""Seconds from the beginning of a budget's window after which it is deleted, if it has ended."""

_ADD = (
    "INSERT INTO counter_slots (counter, kind, slot, amount) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (counter, kind, slot) DO UPDATE SET amount = max(amount + excluded.amount, 0)"
)
_SUM = "SELECT coalesce(sum(amount), 0) FROM counter_slots WHERE counter = ? AND kind = ? AND slot BETWEEN ? AND ?"
# Kinds stand as digits here and in PostgreSQL's functions: 0 is ROLLING, 1 is RESERVED.
_SLOTS = "SELECT slot, amount FROM counter_slots WHERE counter = ? AND kind = 0 AND slot BETWEEN ? AND ? ORDER BY slot"
_RELEASE = "UPDATE counter_slots SET amount = max(amount - ?, 0) WHERE counter = ? AND kind = 1 AND slot = ?"
_RESERVE_ALL = text("SELECT CAST(reserve_each_request(CAST(:items AS jsonb), :clock, :lease, :window) AS text)")
_SETTLE_ALL = text("SELECT settle_counters(CAST(:items AS jsonb), :clock)")

_CLOCK = select(database_time())

_LAST_SLOT = 2**62


class _Reply(Struct):
    """What PostgreSQL's function returns."""

    admitted: bool
    states: list[tuple[int, int, float]]
    lease: int


_decode_replies = msgspec.json.Decoder(list[_Reply]).decode
_encode = msgspec.json.Encoder().encode


class SqlCounters:
    """Counters in a database.

    clock: seconds, for SQLite's slots: one that all workers of the machine share and nobody sets. PostgreSQL has its
    own unless `database_clock` is one, for tests.
    """

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float] = time.monotonic,
        database_clock: Callable[[], float] | None = None,
    ) -> None:
        self._database, self._clock, self._database_clock = database, clock, database_clock
        # What waits for the next transaction: work on SQLite's connection, or PostgreSQL's request.
        self._waiting: list[tuple[Any, asyncio.Future[Any]]] = []
        self._group: asyncio.Task[None] | None = None

    def lacks(self, counters: Sequence[Counter]) -> bool:
        """Returns False: everything is here."""
        return False

    async def prepare(self, counters: Sequence[Counter]) -> Mapping[str, int]:
        """Does nothing, and returns nothing."""
        return {}

    async def reserve(self, counters: Sequence[Counter], tokens: int, money: int, seconds: float = 0.0) -> Decision:
        if not self._database.is_postgresql:
            now = self._clock()
            decision: Decision = await self._in_group(lambda c: _reserve(c, counters, tokens, money, now))
            return decision
        reply = await self._in_group(
            [
                {
                    "id": counter.id,
                    "unit": counter.unit,
                    "limit": counter.limit,
                    "amount": counter.amount(tokens, money),
                    "window": counter.window,
                }
                for counter in counters
            ]
        )
        return Decision(reply.admitted, [CounterState(*state) for state in reply.states], reply.lease)

    async def _reserve_each(self, requests: Sequence[Any]) -> Sequence[_Reply]:
        """Returns PostgreSQL's replies to these requests, which are decided one after the other."""
        clock = self._database_clock() if self._database_clock is not None else None
        values = {"items": _encode(requests).decode(), "clock": clock, "lease": LEASE, "window": WINDOW}
        # As a read, though it writes: one statement is a transaction by itself, and BEGIN and COMMIT are a round trip
        # each.
        return _decode_replies(await self._run(lambda c: c.scalar(_RESERVE_ALL, values), False))

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        await self._settle([row for settlement in settlements for row in _settlement_rows(settlement)])

    async def adopt(self, reservations: Sequence[tuple[Reservation, int]], past: Sequence[Past]) -> None:
        clock = self._database_clock if self._database.is_postgresql else self._clock
        slot = math.floor(clock()) if clock is not None else None
        lease = await self._run(lambda c: _adopt(c, reservations, past, slot), True)
        for reservation, _ in reservations:
            reservation.lease, reservation.local = lease, False

    async def renew(self, reservations: Sequence[Reservation], seconds: int) -> None:
        rows = [
            {**row, "renewed": reservation.lease + seconds}
            for reservation in reservations
            for row in _settlement_rows(Settlement(reservation, 0, 0))
        ]
        await self._settle(rows)
        # Now that the rows are written. Otherwise they lapse as before.
        for reservation in reservations:
            reservation.lease += seconds

    async def _settle(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if not self._database.is_postgresql:
            slot = math.floor(self._clock())
            await self._in_group(lambda c: _settle(c, rows, slot))
            return
        clock = self._database_clock() if self._database_clock is not None else None
        values = {"items": _encode(rows).decode(), "clock": clock}
        # As a read, for the same reason as in `_reserve_each`.
        await self._run(lambda c: c.execute(_SETTLE_ALL, values), False)

    def server_of(self, subject: str) -> Server:
        return None

    def silent(self, subjects: Collection[str], seconds: float) -> Collection[str]:
        return subjects

    async def beat(self, process: str, seconds: int, subject: str = "") -> int:
        slot = None if self._database.is_postgresql else math.floor(self._clock())
        return int(await self._run(lambda c: _beat(c, process, slot, seconds), True))

    def watch(
        self,
        live: Callable[[], Iterable[Reservation]],
        processes: Callable[[], int],
        is_away: Callable[[Counter], bool],
    ) -> None:
        """Does nothing: what was committed is not lost."""

    def doubt(self, counters: Sequence[Counter]) -> None:
        """Does nothing: what is stored elsewhere is stored in the same rows."""

    def miss(self, counters: Sequence[Counter], money: int) -> None:
        """Does nothing, for the same reason."""

    async def tell(self) -> None:
        """Does nothing, for the same reason."""

    async def confirm(self) -> bool:
        """Does nothing, for the same reason."""
        return False

    async def reconnect(self, subject: str) -> None:
        """Does nothing: connections that broke are made anew in any case."""

    def compare_again(self, subject: str) -> None:
        """Does nothing: what was committed is there."""

    async def stop(self) -> None:
        await self._database.close()

    async def _in_group(self, work: Any) -> Any:
        """Returns the result of work that is done in the next transaction, with all that waits for it.

        Processes poll for SQLite's lock: each has to come for it seldom, whatever the number of its requests. On
        PostgreSQL a statement costs this process more than what it asks for costs the server.
        """
        result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, result))
        if self._group is None:
            self._group = asyncio.get_running_loop().create_task(self._run_groups())
        return await result

    async def _run_groups(self) -> None:
        while self._waiting:
            # Without those who gave up before their turn: they tell in another way what they have spent.
            waiting = [one for one in self._waiting if not one[1].done()]
            group, self._waiting = waiting[:MAX_GROUP], waiting[MAX_GROUP:]
            try:
                works = [work for work, _ in group]
                if self._database.is_postgresql:
                    results = await self._reserve_each(works)
                else:
                    results = await self._run(partial(_all, works), True)
            except Exception as error:
                for _, result in group:
                    if not result.done():
                        result.set_exception(error)
            else:
                # Who gave up meanwhile has cancelled the result; what was reserved for it lapses with its lease.
                for (_, result), value in zip(group, results, strict=True):
                    if not result.done():
                        result.set_result(value)
        self._group = None

    async def _run(self, work: Callable[[Connection], Any], writes: bool) -> Any:
        try:
            return await (self._database.write(work) if writes else self._database.read(work))
        except StoreUnavailable as error:
            raise CountersUnavailable(str(error)) from error


def _settlement_rows(settlement: Settlement) -> list[dict[str, Any]]:
    reservation = settlement.reservation
    return [
        {
            "id": counter.id,
            "unit": counter.unit,
            "reserved": counter.amount(reservation.tokens, reservation.money),
            "lease": reservation.lease,
            "spent": settlement.spent(counter),
            "window": counter.window,
        }
        for counter in reservation.counters
        # Requests were counted at the beginning, and nothing of them is reserved.
        if counter.unit != "requests"
    ]


# --- SQLite: functions of one connection, in a transaction that holds the lock -------------------------------------


def _all(works: Sequence[Callable[[Connection], Any]], connection: Connection) -> list[Any]:
    return [work(connection) for work in works]


def _reserve(connection: Connection, counters: Sequence[Counter], tokens: int, money: int, now: float) -> Decision:
    slot = math.floor(now)
    admitted = True
    sums = []
    for counter in counters:
        # What was spent in windows that begin later counts as well: this clock, or the one that began them, is wrong.
        first, last, kind = (
            (counter.window, _LAST_SLOT, MONEY) if counter.unit == "money" else (slot - WINDOW, slot + WINDOW, ROLLING)
        )
        spent: int = connection.exec_driver_sql(_SUM, (counter.id, kind, first, last)).scalar_one()
        last_lease = slot + LEASE + WINDOW
        reserved: int = connection.exec_driver_sql(_SUM, (counter.id, RESERVED, slot + 1, last_lease)).scalar_one()
        admitted = admitted and counter.admits(spent, reserved, counter.amount(tokens, money))
        sums.append((spent, reserved))
    states = []
    for counter, (spent, reserved) in zip(counters, sums, strict=True):
        if admitted:
            amount = counter.amount(tokens, money)
            # A request counts from its beginning, whatever becomes of it, so nothing of it is settled later.
            at_once = counter.unit == "requests"
            kind, place_in_time = (ROLLING, slot) if at_once else (RESERVED, slot + LEASE)
            connection.exec_driver_sql(_ADD, (counter.id, kind, place_in_time, amount))
            spent, reserved = (spent + amount, reserved) if at_once else (spent, reserved + amount)
        wait = _wait(connection, counter, spent, now) if counter.unit != "money" and spent else 0.0
        states.append(CounterState(spent, reserved, wait))
    return Decision(admitted, states, slot + LEASE)


def _wait(connection: Connection, counter: Counter, spent: int, now: float) -> float:
    slot = math.floor(now)
    for first, amount in connection.exec_driver_sql(_SLOTS, (counter.id, slot - WINDOW, slot + WINDOW)):
        spent -= amount
        if spent < max(counter.limit, 1):
            return float(first + WINDOW + 1 - now)
    return 0.0


def _settle(connection: Connection, rows: Sequence[Mapping[str, Any]], slot: int) -> None:
    for row in rows:
        connection.exec_driver_sql(_RELEASE, (row["reserved"], row["id"], row["lease"]))
        if "renewed" in row:
            connection.exec_driver_sql(_ADD, (row["id"], RESERVED, row["renewed"], row["reserved"]))
        if row["spent"]:
            kind, since = (MONEY, row["window"]) if row["unit"] == "money" else (ROLLING, slot)
            connection.exec_driver_sql(_ADD, (row["id"], kind, since, row["spent"]))


# --- all databases -------------------------------------------------------------------------------------------------


def add(connection: Connection, kind: int, amounts: Mapping[tuple[str, int], int]) -> None:
    """Adds amounts by a counter's id and slot; an amount does not fall below 0."""
    statement = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(COUNTER_SLOTS)
    # SQLite calls the greater of two values `max`.
    greatest = func.greatest if connection.dialect.name == "postgresql" else func.max
    total = greatest(COUNTER_SLOTS.c.amount + statement.excluded.amount, 0)
    upsert = statement.on_conflict_do_update(index_elements=["counter", "kind", "slot"], set_={"amount": total})
    # In one order everywhere: transactions that lock rows in different orders would wait for each other.
    for (id, slot), amount in sorted(amounts.items()):
        connection.execute(upsert, {"counter": id, "kind": kind, "slot": slot, "amount": amount})


def _adopt(
    connection: Connection, reservations: Sequence[tuple[Reservation, int]], past: Sequence[Past], slot: int | None
) -> int:
    """Adds what was admitted elsewhere. Returns the slot in which it lapses. slot: None for the database's clock."""
    if slot is None:
        slot = int(connection.execute(_CLOCK).scalar_one())
    spent: dict[tuple[str, int], int] = {}
    reserved: dict[tuple[str, int], int] = {}

    # Added up here, so that each counter has one statement for a slot.
    def count(amounts: dict[tuple[str, int], int], counter: Counter, at: int, amount: int) -> None:
        amounts[counter.id, at] = amounts.get((counter.id, at), 0) + amount

    for one in past:
        count(spent, one.counter, slot - one.age, one.amount)
    for reservation, age in reservations:
        for counter in reservation.counters:
            amount = counter.amount(reservation.tokens, reservation.money)
            if counter.unit == "requests":
                count(spent, counter, slot - age, amount)
            else:
                count(reserved, counter, slot + LEASE, amount)
    add(connection, ROLLING, spent)
    add(connection, RESERVED, reserved)
    return slot + LEASE


def _beat(connection: Connection, process: str, slot: int | None, seconds: int) -> int:
    """Renews a process's row, and deletes what counts no more. slot: None for the database's clock."""
    if slot is None:
        slot = int(connection.execute(_CLOCK).scalar_one())
    # Here, because every process comes by every few seconds, whatever else it does.
    delete_old(connection, slot)
    columns = COUNTER_SLOTS.c
    # The slot is part of a row's key: the row of the beat before is replaced, not changed.
    own = (columns.kind == PROCESS) & (columns.counter == process)
    connection.execute(delete(COUNTER_SLOTS).where(own))
    add(connection, PROCESS, {(process, slot + seconds): 1})
    alive = (columns.kind == PROCESS) & (columns.slot > slot)
    return int(connection.scalar(select(func.count(columns.counter.distinct())).where(alive)) or 0)


def spend(connection: Connection, amounts: Mapping[tuple[str, int], int]) -> dict[tuple[str, int], int]:
    """Adds amounts by a budget's id and window. Returns what was spent of these budgets after that."""
    add(connection, MONEY, amounts)
    # Nobody else can have added anything to these rows since.
    return budgets(connection, [id for id, _ in amounts])


def budgets(connection: Connection, ids: Sequence[str] | None = None) -> dict[tuple[str, int], int]:
    """Returns what was spent, by a budget's id and window. ids: those that are wanted; all without."""
    query = select(COUNTER_SLOTS.c.counter, COUNTER_SLOTS.c.slot, COUNTER_SLOTS.c.amount)
    query = query.where(COUNTER_SLOTS.c.kind == MONEY)
    if ids is not None:
        query = query.where(COUNTER_SLOTS.c.counter.in_(ids))
    return {(id, slot): amount for id, slot, amount in connection.execute(query)}


def claim(connection: Connection, words: str, window: int) -> bool:
    """Returns whether nobody has claimed these words for a window yet; from now on somebody has."""
    statement = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(COUNTER_SLOTS)
    row = {"counter": words, "kind": CLAIM, "slot": window, "amount": 1}
    return connection.execute(statement.on_conflict_do_nothing(), row).rowcount == 1


def put_processes(connection: Connection, count: int) -> None:
    """Stores how many processes there are."""
    statement = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(COUNTER_SLOTS)
    row = {"counter": "processes", "kind": PROCESSES, "slot": 0, "amount": count}
    connection.execute(
        statement.on_conflict_do_update(index_elements=["counter", "kind", "slot"], set_={"amount": count}), row
    )


def processes(connection: Connection) -> int:
    """Returns how many processes there were last, 0 if that was never stored."""
    own = (COUNTER_SLOTS.c.counter == "processes") & (COUNTER_SLOTS.c.kind == PROCESSES) & (COUNTER_SLOTS.c.slot == 0)
    return int(connection.scalar(select(COUNTER_SLOTS.c.amount).where(own)) or 0)


_LASTING = (MONEY, CLAIM, PROCESSES)
"""Kinds of rows that something faster may store here as well, and whose slots are of the calendar."""


def delete_old(connection: Connection, now: float) -> int:
    """Deletes rows of the last minutes that count no more. now: of the clock of slots."""
    columns = COUNTER_SLOTS.c
    # SQLite's clock begins anew with the machine, so that rows from before lie in its future.
    old = (columns.slot < now - 2 * WINDOW) | (columns.slot > now + 2 * LEASE)
    return connection.execute(delete(COUNTER_SLOTS).where(columns.kind.not_in(_LASTING), old)).rowcount


def old_budgets(moment: Any) -> ColumnElement[bool]:
    """Returns the condition on rows of budgets' windows that ended long ago. moment: Unix seconds, or an expression.

    Whoever counts, the rows are here, so they are deleted with what else has expired in the database (`retention.py`).
    """
    columns, later = COUNTER_SLOTS.c, COUNTER_SLOTS.alias("later").c
    # A row has the beginning of its window, which may be of years: it is over where another one has begun.
    is_over = exists().where(later.counter == columns.counter, later.kind == columns.kind, later.slot > columns.slot)
    return and_(
        columns.kind.in_(_LASTING),
        # Slot 0 stays: it has the budgets that never begin anew, and the number of processes.
        columns.slot > 0,
        columns.slot < moment - OLD_BUDGETS,
        or_(is_over, columns.slot < moment - OLD_BUDGETS - MOST_BUDGET_SECONDS),
    )
