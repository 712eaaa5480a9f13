"""Conversations in the database: their metadata, and their items in the order in which they were added.

Each function runs inside one transaction (`database.py`) and sees the rows of one owner only.
"""

from collections.abc import Collection, Sequence
from typing import Literal

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, and_, case, delete, func, insert, select, update

from gateway.store import usage
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
    size = usage.ROW_OVERHEAD + len(conversation.metadata) + _items_size(items)
    row = msgspec.structs.asdict(conversation)
    connection.execute(insert(CONVERSATIONS), {**row, "next_position": len(items), "size": size})
    _insert(connection, conversation.id, 0, items)
    usage.add_bytes(connection, {conversation.owner: size})


def _items_size(items: Sequence[tuple[str, bytes]]) -> int:
    return sum(len(body) for _, body in items) + usage.ITEM_OVERHEAD * len(items)


def get(connection: Connection, owner: str, id: str, now: float) -> Conversation | None:
    """Returns None for one that is missing, somebody else's, or expired."""
    row = connection.execute(select(*_COLUMNS).where(_of_owner(owner, id, now))).one_or_none()
    return None if row is None else Conversation(*row)


def set_metadata(connection: Connection, owner: str, id: str, metadata: bytes, now: float) -> Conversation | None:
    """Replaces the metadata as a whole. Returns None as `get`."""
    conversation = _of_owner(owner, id, now)
    # Locked: the size changes by what this replaces, and not by what somebody else puts in its place meanwhile.
    old = connection.scalar(select(CONVERSATIONS.c.metadata).where(conversation).with_for_update())
    if old is None:
        return None
    change = len(metadata) - len(old)
    size = CONVERSATIONS.c.size + change
    connection.execute(update(CONVERSATIONS).where(conversation).values(metadata=metadata, size=size))
    # Before the bytes are counted, which is the last statement of every transaction (`usage.py`).
    changed = get(connection, owner, id, now)
    usage.add_bytes(connection, {owner: change})
    return changed


def remove(connection: Connection, owner: str, id: str, now: float) -> bool:
    """Deletes a conversation with its items. False if there is none."""
    conversation = _of_owner(owner, id, now)
    size = connection.scalar(select(CONVERSATIONS.c.size).where(conversation).with_for_update())
    if size is None:
        return False
    # Its items go with it, by their foreign key.
    connection.execute(delete(CONVERSATIONS).where(conversation))
    usage.add_bytes(connection, {owner: -size})
    return True


def append(
    connection: Connection, owner: str, id: str, items: Sequence[tuple[str, bytes]], now: float, expires_at: int | None
) -> None:
    """Adds items at the end. Raises ConversationMissing, and IntegrityError if the id of one is there already."""
    added = insert_items(connection, owner, id, items, now, expires_at, False)
    usage.add_bytes(connection, {owner: added})


def insert_items(
    connection: Connection,
    owner: str,
    id: str,
    items: Sequence[tuple[str, bytes]],
    now: float,
    expires_at: int | None,
    skip_existing: bool,
) -> int:
    """Adds items at the end, and returns their bytes, which the caller counts for the owner.

    skip_existing: leave out those whose id is there already, else raise IntegrityError. Raises ConversationMissing.
    """
    # Updating the conversation's row makes other writers wait, so that positions follow each other.
    updated = connection.execute(
        update(CONVERSATIONS)
        .where(_of_owner(owner, id, now))
        .values(
            next_position=CONVERSATIONS.c.next_position + len(items),
            # Only ever later. Nothing is less than NULL, so what never expires stays so.
            expires_at=case((CONVERSATIONS.c.expires_at < expires_at, expires_at), else_=CONVERSATIONS.c.expires_at)
            if expires_at is not None
            else CONVERSATIONS.c.expires_at,
        )
    )
    if updated.rowcount == 0:
        raise ConversationMissing(id)
    end = connection.execute(select(CONVERSATIONS.c.next_position).where(CONVERSATIONS.c.id == id)).scalar_one()
    # Items that are skipped leave their positions empty, which no page minds.
    _insert(connection, id, end - len(items), items, skip_existing)
    size = _items_size(items)
    if skip_existing:
        lengths = func.coalesce(func.sum(func.length(CONVERSATION_ITEMS.c.body)), 0)
        added = CONVERSATION_ITEMS.c.conversation_id == id, CONVERSATION_ITEMS.c.position >= end - len(items)
        size = connection.execute(select(lengths + usage.ITEM_OVERHEAD * func.count()).where(*added)).scalar_one()
    if size:
        connection.execute(
            update(CONVERSATIONS).where(CONVERSATIONS.c.id == id).values(size=CONVERSATIONS.c.size + size)
        )
    return int(size)


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


def history(connection: Connection, owner: str, id: str, now: float, max_items: int, max_bytes: int) -> list[bytes]:
    """Returns all items, oldest first. Raises ConversationMissing, and ChainTooLong before too much is loaded."""
    size = connection.scalar(select(CONVERSATIONS.c.size).where(_of_owner(owner, id, now)))
    if size is None:
        raise ConversationMissing(id)
    if size > max_bytes:
        raise ChainTooLong(f"the conversation has {size} bytes, more than {max_bytes}")
    items = select(CONVERSATION_ITEMS.c.body).where(CONVERSATION_ITEMS.c.conversation_id == id)
    # One more than may be loaded: it tells that there are too many.
    bodies = connection.scalars(items.order_by(CONVERSATION_ITEMS.c.position).limit(max_items + 1)).all()
    if len(bodies) > max_items:
        raise ChainTooLong(f"the conversation has more than {max_items} items")
    return list(bodies)


def page(connection: Connection, owner: str, id: str, after: str | None, limit: int, order: Order, now: float) -> Page:
    """Returns the first `limit` items, or those that follow the item `after`.

    Raises ConversationMissing, ItemMissing.
    """
    cursor = and_(CONVERSATION_ITEMS.c.conversation_id == CONVERSATIONS.c.id, CONVERSATION_ITEMS.c.id == after)
    # An outer join, to tell with one statement whether the conversation or the item is missing.
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
    # One more than the page has: it tells whether another one follows.
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
    conversation, wanted = _of_owner(owner, conversation_id, now), _item(owner, conversation_id, id, now)
    # The conversation is locked before the item, in the order of those who add items.
    connection.execute(select(CONVERSATIONS.c.id).where(conversation).with_for_update())
    length = connection.scalar(select(func.length(CONVERSATION_ITEMS.c.body)).where(wanted))
    if length is None:
        return False
    connection.execute(delete(CONVERSATION_ITEMS).where(wanted))
    size = length + usage.ITEM_OVERHEAD
    connection.execute(update(CONVERSATIONS).where(conversation).values(size=CONVERSATIONS.c.size - size))
    usage.add_bytes(connection, {owner: -size})
    return True
