"""What has expired leaves the database. Nobody sees it any more before that: every query asks (`tables.alive`)."""

from sqlalchemy import Delete, delete, exists, select, tuple_

from gateway.store.tables import CONVERSATION_ITEMS, CONVERSATIONS, EVENTS, RESPONSES, RUNS


def steps(now: float, batch: int) -> list[Delete]:
    """Statements that each delete at most a batch of rows, to be repeated until they find none.

    What belongs to a row goes before it: a response can have ten thousand events, and deleting them along with it
    would keep every other writer waiting. A response that somebody works on stays until that has an end.
    """
    idle = ~exists().where(RUNS.c.response_id == RESPONSES.c.id)
    old, said = (RESPONSES.c.expires_at <= int(now)) & idle, CONVERSATIONS.c.expires_at <= int(now)
    event = tuple_(EVENTS.c.response_id, EVENTS.c.sequence)
    item = tuple_(CONVERSATION_ITEMS.c.conversation_id, CONVERSATION_ITEMS.c.position)
    events = select(EVENTS.c.response_id, EVENTS.c.sequence).join_from(EVENTS, RESPONSES).where(old)
    items = select(CONVERSATION_ITEMS.c.conversation_id, CONVERSATION_ITEMS.c.position)
    items = items.join_from(CONVERSATION_ITEMS, CONVERSATIONS).where(said)
    return [
        delete(EVENTS).where(event.in_(events.limit(batch))),
        delete(RESPONSES).where(RESPONSES.c.id.in_(select(RESPONSES.c.id).where(old).limit(batch))),
        delete(CONVERSATION_ITEMS).where(item.in_(items.limit(batch))),
        delete(CONVERSATIONS).where(CONVERSATIONS.c.id.in_(select(CONVERSATIONS.c.id).where(said).limit(batch))),
    ]
