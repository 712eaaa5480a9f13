"""Responses in the database: stored, continued, worked on in the background, deleted.

Each function is work for one transaction (`database.py`), and sees one owner's rows only. A response is live while it
is queued or in progress, and then has a row in RUNS; what is not live never changes again, whoever asks: a worker that
comes back too late finds that it is told so (False). Rows are locked in one order everywhere, runs before responses,
so that no two transactions wait for each other.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    update,
)

from gateway.store import conversations
from gateway.store.errors import ChainBroken, ChainTooLong
from gateway.store.tables import EVENTS, RESPONSES, RUNS, alive, insert_new

LIVE = ("queued", "in_progress")

MOST_SEQUENCE = 2**62
"""Callers may ask for events after any number; a database has none beyond 64 bits."""

Batches = Mapping[str, tuple[int, Sequence[bytes]]]
"""Events by the id of their response, with the sequence number of the first."""

INTERRUPTED = {"code": "server_error", "message": "The gateway that worked on this response stopped before its end"}
"""The `error` of a response whose worker is gone."""


class StoredResponse(Struct, frozen=True):
    """A response and what it was made of, as JSON that nobody here reads.

    expires_at: seconds since 1970, like created_at; None is never. previous_id: the response that it continues.
    body: the response object. items: an array, the input items of its own request. output: an array. answer_id: what
    the ids of the output's items have in common.
    """

    id: str
    owner: str
    status: str
    created_at: int
    expires_at: int | None
    model: str
    previous_id: str | None
    conversation_id: str | None
    background: bool
    body: bytes
    items: bytes
    output: bytes
    answer_id: str | None = None


_COLUMNS = [RESPONSES.c[name] for name in StoredResponse.__struct_fields__]


def _mine(owner: str, id: str) -> ColumnElement[bool]:
    return and_(RESPONSES.c.id == id, RESPONSES.c.owner == owner)


def _links() -> Select[Any]:
    """The query for a response and those that it continues, without their contents, newest first.

    At most `most` of them, and one more if there are more.
    """
    size = func.length(RESPONSES.c.body) + func.length(RESPONSES.c["items"]) + func.length(RESPONSES.c.output)
    columns = RESPONSES.c.id, RESPONSES.c.previous_id, size.label("size")
    now = bindparam("now", type_=BigInteger)
    usable = and_(RESPONSES.c.owner == bindparam("owner"), alive(RESPONSES.c.expires_at, now))
    newest = select(*columns, literal(1).label("depth")).where(RESPONSES.c.id == bindparam("newest"), usable)
    walk = newest.cte("walk", recursive=True)
    older = select(*columns, walk.c.depth + 1).join_from(walk, RESPONSES, RESPONSES.c.id == walk.c.previous_id)
    walk = walk.union_all(older.where(usable, walk.c.depth <= bindparam("most")))
    return select(walk.c.id, walk.c.previous_id, walk.c.size).order_by(walk.c.depth)


_LINKS = _links()  # put together once: doing it takes as long as asking


def save(
    connection: Connection, response: StoredResponse, conversation_items: Sequence[tuple[str, bytes]], now: float
) -> bool:
    """A finished response, with what it adds to its conversation. False if there is a finished one of this id."""
    row = msgspec.structs.asdict(response)
    if connection.execute(insert_new(connection, RESPONSES), row).rowcount == 0:
        return advance(connection, response, conversation_items, 0, (), now)
    _add_to_conversation(connection, response, conversation_items, now)
    return True


def _add_to_conversation(
    connection: Connection, response: StoredResponse, conversation_items: Sequence[tuple[str, bytes]], now: float
) -> None:
    if response.conversation_id is not None and conversation_items:
        conversations.append(
            connection, response.owner, response.conversation_id, conversation_items, now, response.expires_at, True
        )


def get(connection: Connection, owner: str, id: str, now: float) -> StoredResponse | None:
    """None for one that is not there, somebody else's, or expired."""
    found = connection.execute(
        select(*_COLUMNS).where(_mine(owner, id), alive(RESPONSES.c.expires_at, now))
    ).one_or_none()
    return None if found is None else StoredResponse(*found)


def chain(connection: Connection, owner: str, id: str, now: float, most: int, most_bytes: int) -> list[StoredResponse]:
    """The response and all before it, oldest first. Raises ChainBroken, ChainTooLong.

    The links are walked without their contents, so that a history too big for memory is refused before it is there.
    """
    links = connection.execute(_LINKS, {"newest": id, "owner": owner, "now": int(now), "most": most}).all()
    if not links:
        raise ChainBroken(id)
    oldest = links[-1]
    if len({link.id for link in links}) < len(links):
        raise ChainBroken(oldest.id)  # a circle, which no gateway writes: a response is stored after what it continues
    if len(links) > most:
        raise ChainTooLong(f"more than {most} responses are continued one after the other")
    if oldest.previous_id is not None:
        raise ChainBroken(oldest.previous_id)
    size = sum(link.size for link in links)
    if size > most_bytes:
        raise ChainTooLong(f"what is continued has {size} bytes, more than {most_bytes}")
    ids = [link.id for link in reversed(links)]
    found = {
        row.id: StoredResponse(*row) for row in connection.execute(select(*_COLUMNS).where(RESPONSES.c.id.in_(ids)))
    }
    gone = next((link for link in ids if link not in found), None)
    if gone is not None:
        raise ChainBroken(gone)
    return [found[link] for link in ids]


def said(
    connection: Connection, owner: str, answer_ids: Collection[str], ids: Collection[str], now: float, most_bytes: int
) -> list[bytes]:
    """The output of the answers, and the input items of the responses, of these ids: arrays, the newest first.

    What is not there is left out. Raises ChainTooLong, before more than `most_bytes` are loaded.
    """
    found: list[bytes] = []
    wanted: list[tuple[Column[Any], ColumnElement[bool], Collection[str]]] = [
        (RESPONSES.c.output, RESPONSES.c.answer_id.in_(answer_ids), answer_ids),
        (RESPONSES.c["items"], RESPONSES.c.id.in_(ids), ids),  # `c.items` is a method
    ]
    for column, named, names in wanted:
        if not names:
            continue
        mine = and_(RESPONSES.c.owner == owner, named, alive(RESPONSES.c.expires_at, now))
        size = connection.scalar(select(func.sum(func.length(column))).where(mine)) or 0
        if size > most_bytes:
            raise ChainTooLong(f"what is referred to has {size} bytes, more than {most_bytes}")
        found += connection.scalars(select(column).where(mine).order_by(RESPONSES.c.created_at.desc()))
    return found


def remove(connection: Connection, owner: str, id: str, now: float) -> bool:
    """With its events and its run. False if there is nothing to delete."""
    mine = _mine(owner, id)
    connection.execute(delete(RUNS).where(RUNS.c.response_id.in_(select(RESPONSES.c.id).where(mine))))
    return connection.execute(delete(RESPONSES).where(mine, alive(RESPONSES.c.expires_at, now))).rowcount > 0


# --- in the background --------------------------------------------------------------------------------------


def begin(connection: Connection, response: StoredResponse, events: Sequence[bytes], lease_until: float) -> None:
    """A live response, its first events, and that somebody works on it."""
    connection.execute(insert(RESPONSES), msgspec.structs.asdict(response))
    connection.execute(insert(RUNS), {"response_id": response.id, "lease_until": lease_until, "cancel": False})
    _insert_events(connection, response.id, 0, events)


def advance(
    connection: Connection,
    response: StoredResponse,
    conversation_items: Sequence[tuple[str, bytes]],
    first_sequence: int,
    events: Sequence[bytes],
    now: float,
) -> bool:
    """What became of a live response, and the events that tell of it; a finished one's run ends.

    False if it is not live any more, or not there: nothing changes.
    """
    if not _hold(connection, response.id):
        return False
    changed = connection.execute(
        update(RESPONSES)
        .where(_mine(response.owner, response.id), RESPONSES.c.status.in_(LIVE))
        .values(
            status=response.status,
            expires_at=response.expires_at,
            model=response.model,
            body=response.body,
            items=response.items,
            output=response.output,
            answer_id=response.answer_id,
        )
    ).rowcount
    if changed == 0:
        return False
    _insert_events(connection, response.id, first_sequence, events)
    if response.status not in LIVE:
        connection.execute(delete(RUNS).where(RUNS.c.response_id == response.id))
        _add_to_conversation(connection, response, conversation_items, now)
    return True


def _hold(connection: Connection, id: str) -> bool:
    """Keeps a run from being ended by others before this transaction's end. False if there is none."""
    return connection.scalar(select(RUNS.c.response_id).where(RUNS.c.response_id == id).with_for_update()) is not None


def renew(connection: Connection, ids: Collection[str], lease_until: float) -> None:
    """Extends the leases of these responses: whoever works on them is alive."""
    connection.execute(update(RUNS).where(RUNS.c.response_id.in_(ids)).values(lease_until=lease_until))


def request_cancel(connection: Connection, owner: str, id: str) -> bool:
    """False if it is not live, so that there is nothing to cancel."""
    live = exists().where(_mine(owner, id), RESPONSES.c.status.in_(LIVE))
    return connection.execute(update(RUNS).where(RUNS.c.response_id == id, live).values(cancel=True)).rowcount > 0


def going_on(connection: Connection, ids: Collection[str]) -> set[str]:
    """Those of these that are live and not asked to stop."""
    return set(
        connection.scalars(select(RUNS.c.response_id).where(RUNS.c.response_id.in_(ids), RUNS.c.cancel.is_(False)))
    )


def fail_interrupted(connection: Connection, now: float, most: int) -> list[str]:
    """Ends what nobody works on any more, `most` at a time: failed, or cancelled where that was asked for."""
    lost = connection.execute(
        select(RUNS.c.response_id, RUNS.c.cancel)
        .where(RUNS.c.lease_until < now)
        .order_by(RUNS.c.lease_until)
        .limit(most)
        .with_for_update(skip_locked=True)  # another replica is at those, or their worker has come back
    ).all()
    ended = []
    for id, cancel in lost:
        body = connection.scalar(select(RESPONSES.c.body).where(RESPONSES.c.id == id, RESPONSES.c.status.in_(LIVE)))
        connection.execute(delete(RUNS).where(RUNS.c.response_id == id))
        if body is None:
            continue
        status: Literal["cancelled", "failed"] = "cancelled" if cancel else "failed"
        connection.execute(
            update(RESPONSES)
            .where(RESPONSES.c.id == id, RESPONSES.c.status.in_(LIVE))
            .values(status=status, body=_ended(body, status))
        )
        ended.append(id)
    return ended


def _ended(body: bytes, status: Literal["cancelled", "failed"]) -> bytes:
    try:
        response = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return body  # none of ours; one that cannot be read must not keep all others from being ended
    response["status"] = msgspec.Raw(msgspec.json.encode(status))
    response["error"] = msgspec.Raw(msgspec.json.encode(INTERRUPTED if status == "failed" else None))
    return msgspec.json.encode(response)


def append_events(connection: Connection, batches: Batches) -> set[str]:
    """Events of several responses. Those that are there already stay as they are, so that it can be repeated.

    The ids of those that are not live: nobody reads on after their last event.
    """
    # A lock that keeps the runs from being deleted, and lets their leases be renewed at the same time.
    held = select(RUNS.c.response_id).where(RUNS.c.response_id.in_(batches)).order_by(RUNS.c.response_id)
    live = set(connection.scalars(held.with_for_update(read=True, key_share=True)))
    rows = [
        {"response_id": id, "sequence": sequence, "body": body}
        for id, (first_sequence, events) in batches.items()
        if id in live
        for sequence, body in enumerate(events, first_sequence)
    ]
    if rows:
        connection.execute(insert_new(connection, EVENTS), rows)
    return set(batches) - live


def _insert_events(connection: Connection, id: str, first_sequence: int, events: Sequence[bytes]) -> None:
    if events:
        numbered = enumerate(events, first_sequence)
        rows = [{"response_id": id, "sequence": sequence, "body": body} for sequence, body in numbered]
        connection.execute(insert_new(connection, EVENTS), rows)


def events(connection: Connection, owner: str, id: str, after: int, now: float, most: int) -> list[tuple[int, bytes]]:
    """Those with a sequence number above `after`, in order, the first `most`."""
    newer = EVENTS.c.sequence > min(after, MOST_SEQUENCE)
    rows = connection.execute(_events(owner, id, now).where(newer).order_by(EVENTS.c.sequence).limit(most))
    return [(row.sequence, row.body) for row in rows]


def last_event(connection: Connection, owner: str, id: str, now: float) -> tuple[int, bytes] | None:
    """The one with the highest sequence number."""
    newest = _events(owner, id, now).order_by(EVENTS.c.sequence.desc()).limit(1)
    row = connection.execute(newest).one_or_none()
    return None if row is None else (row.sequence, row.body)


def _events(owner: str, id: str, now: float) -> Select[Any]:
    mine = _mine(owner, id), alive(RESPONSES.c.expires_at, now)
    return select(EVENTS.c.sequence, EVENTS.c.body).join_from(EVENTS, RESPONSES).where(*mine)
