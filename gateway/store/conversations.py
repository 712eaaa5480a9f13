"""Conversations in the database: their metadata, and their items in the order in which they were added.

Each function is work for one transaction (`database.py`), and sees one owner's rows only.
"""

from collections.abc import Collection, Sequence
from typing import Literal

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, and_, case, delete, func, insert, select, update

from gateway.store.errors import ChainTooLong, ConversationMissing, ItemMissing
from gateway.store.tables import CONVERSATION_ITEMS, CONVERSATIONS, alive, insert_new

Order = Literal["asc", "desc"]


class Conversation(Struct, frozen=True):
    """expires_at: None is never; adding to a conversation can only make it later. metadata: a JSON object."""

    id: str
    owner: str
    created_at: int
    expires_at: int | None
    metadata: bytes


class Item(Struct, frozen=True):
    id: str
    body: bytes


class Page(Struct, frozen=True):
    """more: there are items beyond these, in the order that was asked for."""

    items: list[Item]
    more: bool


_COLUMNS = [CONVERSATIONS.c[name] for name in Conversation.__struct_fields__]


def _mine(owner: str, id: str, now: float) -> ColumnElement[bool]:
    return and_(CONVERSATIONS.c.id == id, CONVERSATIONS.c.owner == owner, alive(CONVERSATIONS.c.expires_at, now))


def create(connection: Connection, conversation: Conversation, items: Sequence[tuple[str, bytes]]) -> None:
    """With its first items."""
    row = msgspec.structs.asdict(conversation)
    connection.execute(insert(CONVERSATIONS), {**row, "next_position": len(items)})
    _insert(connection, conversation.id, 0, items)


def get(connection: Connection, owner: str, id: str, now: float) -> Conversation | None:
    """None for one that is not there, somebody else's, or expired."""
    found = connection.execute(select(*_COLUMNS).where(_mine(owner, id, now))).one_or_none()
    return None if found is None else Conversation(*found)


def change(connection: Connection, owner: str, id: str, metadata: bytes, now: float) -> Conversation | None:
    """Its metadata as a whole."""
    connection.execute(update(CONVERSATIONS).where(_mine(owner, id, now)).values(metadata=metadata))
    return get(connection, owner, id, now)


def remove(connection: Connection, owner: str, id: str, now: float) -> bool:
    """With its items. False if there is nothing to delete."""
    return connection.execute(delete(CONVERSATIONS).where(_mine(owner, id, now))).rowcount > 0


def append(
    connection: Connection,
    owner: str,
    id: str,
    items: Sequence[tuple[str, bytes]],
    now: float,
    expires_at: int | None,
    repeated: bool,
) -> None:
    """At the end. `repeated`: items whose id is there already are left out; else they are an IntegrityError.

    Raises ConversationMissing.
    """
    # The change of the conversation's row makes others who append wait, so that positions follow each other.
    changed = connection.execute(
        update(CONVERSATIONS)
        .where(_mine(owner, id, now))
        .values(
            next_position=CONVERSATIONS.c.next_position + len(items),
            expires_at=case((CONVERSATIONS.c.expires_at < expires_at, expires_at), else_=CONVERSATIONS.c.expires_at)
            if expires_at is not None
            else CONVERSATIONS.c.expires_at,
        )
    )
    if changed.rowcount == 0:
        raise ConversationMissing(id)
    end = connection.execute(select(CONVERSATIONS.c.next_position).where(CONVERSATIONS.c.id == id)).scalar_one()
    _insert(connection, id, end - len(items), items, repeated)


def _insert(
    connection: Connection, id: str, position: int, items: Sequence[tuple[str, bytes]], repeated: bool = False
) -> None:
    if items:
        statement = insert_new(connection, CONVERSATION_ITEMS) if repeated else insert(CONVERSATION_ITEMS)
        connection.execute(
            statement,
            [
                {"conversation_id": id, "position": place, "id": item, "body": body}
                for place, (item, body) in enumerate(items, position)
            ],
        )


def page(connection: Connection, owner: str, id: str, after: str | None, limit: int, order: Order, now: float) -> Page:
    """The first `limit` items, or those that follow the item `after`. Raises ConversationMissing, ItemMissing."""
    cursor = and_(CONVERSATION_ITEMS.c.conversation_id == CONVERSATIONS.c.id, CONVERSATION_ITEMS.c.id == after)
    begin = connection.execute(
        select(CONVERSATION_ITEMS.c.position)
        .select_from(CONVERSATIONS.outerjoin(CONVERSATION_ITEMS, cursor))
        .where(_mine(owner, id, now))
    ).one_or_none()
    if begin is None:
        raise ConversationMissing(id)
    if after is not None and begin.position is None:
        raise ItemMissing(after)
    position = CONVERSATION_ITEMS.c.position
    items = select(CONVERSATION_ITEMS.c.id, CONVERSATION_ITEMS.c.body).where(CONVERSATION_ITEMS.c.conversation_id == id)
    if begin.position is not None:
        items = items.where(position > begin.position if order == "asc" else position < begin.position)
    items = items.order_by(position if order == "asc" else position.desc()).limit(limit + 1)
    found = [Item(*row) for row in connection.execute(items)]
    return Page(found[:limit], len(found) > limit)


def _item(owner: str, conversation_id: str, id: str, now: float) -> ColumnElement[bool]:
    mine = select(CONVERSATIONS.c.id).where(_mine(owner, conversation_id, now))
    return and_(CONVERSATION_ITEMS.c.conversation_id.in_(mine), CONVERSATION_ITEMS.c.id == id)


def item(connection: Connection, owner: str, conversation_id: str, id: str, now: float) -> bytes | None:
    """One item; None as for conversations."""
    return connection.scalar(select(CONVERSATION_ITEMS.c.body).where(_item(owner, conversation_id, id, now)))


def said(connection: Connection, owner: str, ids: Collection[str], now: float, most_bytes: int) -> list[bytes]:
    """The items of these ids, of whichever conversation, the newest conversation's first. What is not there is left
    out. Raises ChainTooLong, before more than `most_bytes` are loaded.
    """
    mine = and_(
        CONVERSATION_ITEMS.c.id.in_(ids), CONVERSATIONS.c.owner == owner, alive(CONVERSATIONS.c.expires_at, now)
    )
    joined = CONVERSATION_ITEMS.join(CONVERSATIONS)
    size = connection.scalar(select(func.sum(func.length(CONVERSATION_ITEMS.c.body))).select_from(joined).where(mine))
    if (size or 0) > most_bytes:
        raise ChainTooLong(f"what is referred to has {size} bytes, more than {most_bytes}")
    newest = CONVERSATIONS.c.created_at.desc(), CONVERSATIONS.c.id
    return list(connection.scalars(select(CONVERSATION_ITEMS.c.body).select_from(joined).where(mine).order_by(*newest)))


def remove_item(connection: Connection, owner: str, conversation_id: str, id: str, now: float) -> bool:
    """False if there is nothing to delete."""
    return connection.execute(delete(CONVERSATION_ITEMS).where(_item(owner, conversation_id, id, now))).rowcount > 0
