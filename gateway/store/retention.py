"""Expired rows leave the database. Nobody sees them before that: every query asks (`tables.not_expired`)."""

from typing import Any

from sqlalchemy import ColumnElement, Delete, delete, exists, select, tuple_

from gateway.store.tables import CONVERSATION_ITEMS, CONVERSATIONS, EVENTS, RESPONSES, RUNS


def delete_statements(now: int | ColumnElement[Any], batch: int) -> list[Delete]:
    """Statements that each delete at most `batch` rows, to be repeated in order until each finds none.

    The rows that belong to another one go before it: a response may have ten thousand events, and a cascade over them
    would make every other writer wait. A response that a process works on stays until it has ended.
    """
    idle = ~exists().where(RUNS.c.response_id == RESPONSES.c.id)
    old_response = (RESPONSES.c.expires_at <= now) & idle
    old_conversation = CONVERSATIONS.c.expires_at <= now
    event = tuple_(EVENTS.c.response_id, EVENTS.c.sequence)
    item = tuple_(CONVERSATION_ITEMS.c.conversation_id, CONVERSATION_ITEMS.c.position)
    events = select(EVENTS.c.response_id, EVENTS.c.sequence).join_from(EVENTS, RESPONSES).where(old_response)
    items = select(CONVERSATION_ITEMS.c.conversation_id, CONVERSATION_ITEMS.c.position)
    items = items.join_from(CONVERSATION_ITEMS, CONVERSATIONS).where(old_conversation)
    responses = select(RESPONSES.c.id).where(old_response)
    conversations = select(CONVERSATIONS.c.id).where(old_conversation)
    return [
        delete(EVENTS).where(event.in_(events.limit(batch))),
        delete(RESPONSES).where(RESPONSES.c.id.in_(responses.limit(batch))),
        delete(CONVERSATION_ITEMS).where(item.in_(items.limit(batch))),
        delete(CONVERSATIONS).where(CONVERSATIONS.c.id.in_(conversations.limit(batch))),
    ]
