"""Expired rows leave the database. Nobody sees them before that: every query asks (`tables.not_expired`)."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, Connection, Delete, Table, delete, exists, select, tuple_

from gateway.store.sql_counters import old_budgets
from gateway.store.tables import (
    CONVERSATION_ITEMS,
    CONVERSATIONS,
    COUNTER_SLOTS,
    EVENTS,
    RESPONSES,
    RUNS,
    database_time,
)
from gateway.store.usage import add_bytes

Purge = Callable[[Connection], int]


def purges(now: float | None, batch: int) -> list[Purge]:
    """Transactions that each delete at most `batch` rows, to be repeated in order until each deletes fewer.

    The rows that belong to another one go before it: a response may have ten thousand events, and a cascade over them
    would make every other writer wait. A response that a process works on stays until it has ended. now: Unix seconds;
    None is the database's clock.
    """
    moment: Any = database_time() if now is None else int(now)
    idle = ~exists().where(RUNS.c.response_id == RESPONSES.c.id)
    old_response = (RESPONSES.c.expires_at <= moment) & idle
    old_conversation = CONVERSATIONS.c.expires_at <= moment
    event = tuple_(EVENTS.c.response_id, EVENTS.c.sequence)
    counter = tuple_(COUNTER_SLOTS.c.counter, COUNTER_SLOTS.c.kind, COUNTER_SLOTS.c.slot)
    item = tuple_(CONVERSATION_ITEMS.c.conversation_id, CONVERSATION_ITEMS.c.position)
    events = select(EVENTS.c.response_id, EVENTS.c.sequence).join_from(EVENTS, RESPONSES).where(old_response)
    items = select(CONVERSATION_ITEMS.c.conversation_id, CONVERSATION_ITEMS.c.position)
    items = items.join_from(CONVERSATION_ITEMS, CONVERSATIONS).where(old_conversation)
    budgets = select(COUNTER_SLOTS.c.counter, COUNTER_SLOTS.c.kind, COUNTER_SLOTS.c.slot).where(old_budgets(moment))
    return [
        _delete(delete(EVENTS).where(event.in_(events.limit(batch)))),
        _delete_counted(RESPONSES, old_response, batch),
        _delete(delete(CONVERSATION_ITEMS).where(item.in_(items.limit(batch)))),
        _delete_counted(CONVERSATIONS, old_conversation, batch),
        _delete(delete(COUNTER_SLOTS).where(counter.in_(budgets.limit(batch)))),
    ]


def _delete(statement: Delete) -> Purge:
    return lambda connection: connection.execute(statement).rowcount


def _delete_counted(table: Table, condition: ColumnElement[bool], batch: int) -> Purge:
    """Deletes rows whose size counts for their owners. Rows that another process deletes at this moment are skipped."""
    expired = select(table.c.id, table.c.owner, table.c.size).where(condition).limit(batch)
    expired = expired.with_for_update(skip_locked=True, of=table)

    def purge(connection: Connection) -> int:
        rows = connection.execute(expired).all()
        connection.execute(delete(table).where(table.c.id.in_([row.id for row in rows])))
        # Added up, so that each owner's count is changed once.
        changes: Counter[str] = Counter()
        for row in rows:
            changes[row.owner] -= row.size
        add_bytes(connection, changes)
        return len(rows)

    return purge
