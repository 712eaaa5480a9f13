"""Conversations in the database: their metadata, and their items in the order in which they were added.

Each function runs inside one transaction (`database.py`) and sees the rows of one owner only.
"""

from collections.abc import Collection, Sequence
from typing import Literal

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, and_, case, delete, func, insert, select, update

from gateway.store.errors import ChainTooLong, ConversationMissing, ItemMissing
from gateway.store.tables import CONVERSATION_ITEMS, CONVERSATIONS, insert_new, not_expired

Order = Literal["asc", "desc"]


class Conversation(Struct, frozen=True):
    """A row. expires_at: Unix seconds, None is never; adding items can only make it later. metadata: a JSON object."""

    id: str
    owner: str
    created_at: int
    expires_at: int | None
    metadata: bytes


class Item(Struct, frozen=True):
    """body: a JSON object."""

    id: str
    body: bytes


class Page(Struct, frozen=True):
    """more: there are items after these, in the order of the page."""

    items: list[Item]
    more: bool


_COLUMNS = [CONVERSATIONS.c[name] for name in Conversation.__struct_fields__]


def _of_owner(owner: str, id: str, now: float) -> ColumnElement[bool]:
    return and_(CONVERSATIONS.c.id == id, CONVERSATIONS.c.owner == owner, not_expired(CONVERSATIONS.c.expires_at, now))


def create(connection: Connection, conversation: Conversation, items: Sequence[tuple[str, bytes]]) -> None:
    """Inserts a conversation with its first items."""
    row = msgspec.structs.asdict(conversation)
    connection.execute(insert(CONVERSATIONS), {**row, "next_position": len(items)})
    _insert(connection, conversation.id, 0, items)


def get(connection: Connection, owner: str, id: str, now: float) -> Conversation | None:
    """Returns None for one that is missing, somebody else's, or expired."""
    row = connection.execute(select(*_COLUMNS).where(_of_owner(owner, id, now))).one_or_none()
    return None if row is None else Conversation(*row)


def set_metadata(connection: Connection, owner: str, id: str, metadata: bytes, now: float) -> Conversation | None:
    """Replaces the metadata as a whole. Returns None as `get`."""
    connection.execute(update(CONVERSATIONS).where(_of_owner(owner, id, now)).values(metadata=metadata))
    return get(connection, owner, id, now)


def remove(connection: Connection, owner: str, id: str, now: float) -> bool:
    """Deletes a conversation with its items. False if there is none."""
    return connection.execute(delete(CONVERSATIONS).where(_of_owner(owner, id, now))).rowcount > 0


def append(
    connection: Connection,
    owner: str,
    id: str,
    items: Sequence[tuple[str, bytes]],
    now: float,
    expires_at: int | None,
    skip_existing: bool,
) -> None:
    """Adds items at the end. skip_existing: leave out those whose id is there already, else raise IntegrityError.

    Raises ConversationMissing.
    """
    # Updating the conversation's row makes other writers wait, so that positions follow each other.
    updated = connection.execute(
        update(CONVERSATIONS)
        .where(_of_owner(owner, id, now))
        .values(
            next_position=CONVERSATIONS.c.next_position + len(items),
            expires_at=case((CONVERSATIONS.c.expires_at < expires_at, expires_at), else_=CONVERSATIONS.c.expires_at)
            if expires_at is not None
            else CONVERSATIONS.c.expires_at,
        )
    )
    if updated.rowcount == 0:
        raise ConversationMissing(id)
    end = connection.execute(select(CONVERSATIONS.c.next_position).where(CONVERSATIONS.c.id == id)).scalar_one()
    _insert(connection, id, end - len(items), items, skip_existing)


def _insert(
    connection: Connection, id: str, position: int, items: Sequence[tuple[str, bytes]], skip_existing: bool = False
) -> None:
    if items:
        statement = insert_new(connection, CONVERSATION_ITEMS) if skip_existing else insert(CONVERSATION_ITEMS)
        connection.execute(
            statement,
            [
                {"conversation_id": id, "position": index, "id": item, "body": body}
                for index, (item, body) in enumerate(items, position)
            ],
        )


def page(connection: Connection, owner: str, id: str, after: str | None, limit: int, order: Order, now: float) -> Page:
    """Returns the first `limit` items, or those that follow the item `after`.

    Raises ConversationMissing, ItemMissing.
    """
    cursor = and_(CONVERSATION_ITEMS.c.conversation_id == CONVERSATIONS.c.id, CONVERSATION_ITEMS.c.id == after)
    start = connection.execute(
        select(CONVERSATION_ITEMS.c.position)
        .select_from(CONVERSATIONS.outerjoin(CONVERSATION_ITEMS, cursor))
        .where(_of_owner(owner, id, now))
    ).one_or_none()
    if start is None:
        raise ConversationMissing(id)
    if after is not None and start.position is None:
        raise ItemMissing(after)
    position = CONVERSATION_ITEMS.c.position
    items = select(CONVERSATION_ITEMS.c.id, CONVERSATION_ITEMS.c.body).where(CONVERSATION_ITEMS.c.conversation_id == id)
    if start.position is not None:
        items = items.where(position > start.position if order == "asc" else position < start.position)
    items = items.order_by(position if order == "asc" else position.desc()).limit(limit + 1)
    rows = [Item(*row) for row in connection.execute(items)]
    return Page(rows[:limit], len(rows) > limit)


def _item(owner: str, conversation_id: str, id: str, now: float) -> ColumnElement[bool]:
    conversation = select(CONVERSATIONS.c.id).where(_of_owner(owner, conversation_id, now))
    return and_(CONVERSATION_ITEMS.c.conversation_id.in_(conversation), CONVERSATION_ITEMS.c.id == id)


def item(connection: Connection, owner: str, conversation_id: str, id: str, now: float) -> bytes | None:
    """Returns the body of one item; None as `get`."""
    return connection.scalar(select(CONVERSATION_ITEMS.c.body).where(_item(owner, conversation_id, id, now)))


def items_by_id(connection: Connection, owner: str, ids: Collection[str], now: float, max_bytes: int) -> list[bytes]:
    """Returns the items of these ids of all conversations, the newest conversation's first. Missing ones are left out.

    Raises ChainTooLong before more than `max_bytes` are loaded.
    """
    wanted = and_(
        CONVERSATION_ITEMS.c.id.in_(ids), CONVERSATIONS.c.owner == owner, not_expired(CONVERSATIONS.c.expires_at, now)
    )
    joined = CONVERSATION_ITEMS.join(CONVERSATIONS)
    size = connection.scalar(select(func.sum(func.length(CONVERSATION_ITEMS.c.body))).select_from(joined).where(wanted))
    if (size or 0) > max_bytes:
        raise ChainTooLong(f"the items that are referred to have {size} bytes, more than {max_bytes}")
    newest = CONVERSATIONS.c.created_at.desc(), CONVERSATIONS.c.id
    bodies = select(CONVERSATION_ITEMS.c.body).select_from(joined).where(wanted).order_by(*newest)
    return list(connection.scalars(bodies))


def remove_item(connection: Connection, owner: str, conversation_id: str, id: str, now: float) -> bool:
    """Deletes one item. False if there is none."""
    return connection.execute(delete(CONVERSATION_ITEMS).where(_item(owner, conversation_id, id, now))).rowcount > 0
