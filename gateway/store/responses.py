"""Responses in the database: stored, continued, worked on in the background, deleted.

Each function runs inside one transaction (`database.py`) and sees the rows of one owner only. A response is live while
it is queued or in progress, and then has a row in RUNS. One that is not live never changes again: a worker that comes
back too late gets False. Rows are locked in one order everywhere, runs before responses, so that no two transactions
wait for each other.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
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

from gateway.store import conversations, ledger_outbox, usage
from gateway.store.errors import ChainBroken, ChainTooLong
from gateway.store.tables import EVENTS, RESPONSES, RUNS, database_time, insert_new, not_expired

# OpenAI's words for a response that has not ended.
LIVE = ("queued", "in_progress")

MAX_SEQUENCE = 2**62
"""Callers may ask for events after any number; databases have none beyond 64 bits."""

Batches = Mapping[str, tuple[int, Sequence[bytes]]]
"""Events by the id of their response, with the sequence number of the first."""

EndInterrupted = Callable[[bytes, Literal["cancelled", "failed"]], bytes]
"""Makes the body of a response that nobody works on any more, of its present body and its final status."""

RowOfInterrupted = Callable[["InterruptedRun"], bytes | None]
"""Makes the ledger's row of a response that nobody works on any more; None where there is none."""


class StoredResponse(Struct, frozen=True):
    """A row: a response, and the JSON that it was made of, which nobody here reads.

    created_at, expires_at: Unix seconds; None is never. previous_id: the response that it continues. body: the response
    object. items: an array, the input items of its own request. output: an array. answer_id: the part that the ids of
    the output's items share.
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


def _of_owner(owner: str, id: str) -> ColumnElement[bool]:
    return and_(RESPONSES.c.id == id, RESPONSES.c.owner == owner)


def _links() -> Select[Any]:
    """Returns the query for a response and those that it continues, without their contents, newest first.

    At most `max_links` of them, and one more if there are more.
    """
    size = func.length(RESPONSES.c.body) + func.length(RESPONSES.c["items"]) + func.length(RESPONSES.c.output)
    columns = RESPONSES.c.id, RESPONSES.c.previous_id, size.label("size")
    now = bindparam("now", type_=BigInteger)
    visible = and_(RESPONSES.c.owner == bindparam("owner"), not_expired(RESPONSES.c.expires_at, now))
    newest = select(*columns, literal(1).label("depth")).where(RESPONSES.c.id == bindparam("newest"), visible)
    walk = newest.cte("walk", recursive=True)
    older = select(*columns, walk.c.depth + 1).join_from(walk, RESPONSES, RESPONSES.c.id == walk.c.previous_id)
    # The depth also ends a circle, in which UNION ALL would go on for ever.
    walk = walk.union_all(older.where(visible, walk.c.depth <= bindparam("max_links")))
    return select(walk.c.id, walk.c.previous_id, walk.c.size).order_by(walk.c.depth)


_LINKS = _links()  # built once: building it takes as long as running it


def save(
    connection: Connection, response: StoredResponse, conversation_items: Sequence[tuple[str, bytes]], now: float
) -> bool:
    """Inserts a finished response, and its items into its conversation. False if a finished one has this id."""
    size = _size(response)
    row = {**msgspec.structs.asdict(response), "size": size}
    if connection.execute(insert_new(connection, RESPONSES), row).rowcount == 0:
        # It may be live, and then ends with this. One that has ended stays as it is.
        return update_live(connection, response, conversation_items, 0, (), now)
    added = _add_to_conversation(connection, response, conversation_items, now)
    usage.add_bytes(connection, {response.owner: size + added})
    return True


def _size(response: StoredResponse) -> int:
    return usage.ROW_OVERHEAD + len(response.body) + len(response.items) + len(response.output)


def _add_to_conversation(
    connection: Connection, response: StoredResponse, conversation_items: Sequence[tuple[str, bytes]], now: float
) -> int:
    """Returns the bytes that were added."""
    if response.conversation_id is None or not conversation_items:
        return 0
    return conversations.insert_items(
        connection, response.owner, response.conversation_id, conversation_items, now, response.expires_at, True
    )


def get(connection: Connection, owner: str, id: str, now: float) -> StoredResponse | None:
    """Returns None for one that is missing, somebody else's, or expired."""
    row = connection.execute(
        select(*_COLUMNS).where(_of_owner(owner, id), not_expired(RESPONSES.c.expires_at, now))
    ).one_or_none()
    return None if row is None else StoredResponse(*row)


def chain(
    connection: Connection, owner: str, id: str, now: float, max_links: int, max_bytes: int
) -> list[StoredResponse]:
    """Returns the response and all that it continues, oldest first. Raises ChainBroken, ChainTooLong.

    The links are walked without their contents, so that a history too large for memory is refused before it is loaded.
    """
    links = connection.execute(_LINKS, {"newest": id, "owner": owner, "now": int(now), "max_links": max_links}).all()
    if not links:
        raise ChainBroken(id)
    # They come in the order of their depth.
    oldest = links[-1]
    if len({link.id for link in links}) < len(links):
        raise ChainBroken(oldest.id)  # a circle, which no gateway writes: a response is stored after its predecessor
    if len(links) > max_links:
        raise ChainTooLong(f"more than {max_links} responses are continued one after the other")
    if oldest.previous_id is not None:
        raise ChainBroken(oldest.previous_id)
    size = sum(link.size for link in links)
    if size > max_bytes:
        raise ChainTooLong(f"the responses that are continued have {size} bytes, more than {max_bytes}")
    ids = [link.id for link in reversed(links)]
    # Without the owner, which the walk has asked for. One may have been deleted since then: each statement of a read
    # sees what is committed when it begins.
    rows = {
        row.id: StoredResponse(*row) for row in connection.execute(select(*_COLUMNS).where(RESPONSES.c.id.in_(ids)))
    }
    missing = next((link for link in ids if link not in rows), None)
    if missing is not None:
        raise ChainBroken(missing)
    return [rows[link] for link in ids]


def item_arrays(
    connection: Connection, owner: str, answer_ids: Collection[str], ids: Collection[str], now: float, max_bytes: int
) -> list[bytes]:
    """Returns the output of the answers, and the input items of the responses, of these ids: arrays, newest first.

    Missing ones are left out. Raises ChainTooLong before more than `max_bytes` are loaded.
    """
    arrays: list[bytes] = []
    wanted: list[tuple[Column[Any], ColumnElement[bool], Collection[str]]] = [
        (RESPONSES.c.output, RESPONSES.c.answer_id.in_(answer_ids), answer_ids),
        (RESPONSES.c["items"], RESPONSES.c.id.in_(ids), ids),  # `c.items` is a method
    ]
    for column, condition, wanted_ids in wanted:
        if not wanted_ids:
            continue
        visible = and_(RESPONSES.c.owner == owner, condition, not_expired(RESPONSES.c.expires_at, now))
        size = connection.scalar(select(func.sum(func.length(column))).where(visible)) or 0
        if size > max_bytes:
            raise ChainTooLong(f"the items that are referred to have {size} bytes, more than {max_bytes}")
        arrays += connection.scalars(select(column).where(visible).order_by(RESPONSES.c.created_at.desc()))
    return arrays


def remove(
    connection: Connection, owner: str, id: str, now: float, lease: float, row_of_interrupted: RowOfInterrupted
) -> bool:
    """Deletes a response with its events and its run. False if there is none.

    lease: seconds that its worker has to write the ledger's row.
    """
    own = _of_owner(owner, id)
    run_of_own = RUNS.c.response_id.in_(select(RESPONSES.c.id).where(own))
    # The run before the response: the order of all who end one.
    ledger_row: bytes | None = connection.scalar(select(RUNS.c.ledger_row).where(run_of_own).with_for_update())
    visible = own, not_expired(RESPONSES.c.expires_at, now)
    row = connection.execute(select(RESPONSES.c.size, RESPONSES.c.status).where(*visible).with_for_update()).first()
    if row is None:
        return False
    connection.execute(delete(RUNS).where(run_of_own))
    # Its events go with it, by their foreign key.
    connection.execute(delete(RESPONSES).where(own))
    usage.add_bytes(connection, {owner: -row.size})
    # A worker that lives sees that its response is gone, and puts a better row in the place of this one.
    run = InterruptedRun(id, "cancelled", row.status != "queued", ledger_row)
    if (call := row_of_interrupted(run)) is not None:
        ledger_outbox.put(connection, id, call, lease)
    return True


# --- in the background --------------------------------------------------------------------------------------


class InterruptedRun(Struct, frozen=True):
    """A response whose process is gone. started: Cohere may have been asked. ledger_row: as `begin` got it."""

    id: str
    status: Literal["cancelled", "failed"]
    started: bool
    ledger_row: bytes | None


def begin(
    connection: Connection,
    response: StoredResponse,
    events: Sequence[bytes],
    lease: float,
    ledger_row: bytes | None = None,
) -> None:
    """Inserts a live response, its first events, and its run. lease: seconds, by the database's clock.

    ledger_row: of the call, for whoever ends the run if this process does not live to write it.
    """
    size = _size(response) + _events_size(events)
    connection.execute(insert(RESPONSES), {**msgspec.structs.asdict(response), "size": size})
    # By the database's clock, which all processes have in common.
    lease_until = database_time() + lease
    run = {"response_id": response.id, "lease_until": lease_until, "cancel": False, "ledger_row": ledger_row}
    connection.execute(insert(RUNS).values(run))
    _insert_events(connection, response.id, 0, events)
    usage.add_bytes(connection, {response.owner: size})


def _events_size(events: Sequence[bytes]) -> int:
    return sum(map(len, events)) + usage.EVENT_OVERHEAD * len(events)


def update_live(
    connection: Connection,
    response: StoredResponse,
    conversation_items: Sequence[tuple[str, bytes]],
    first_sequence: int,
    events: Sequence[bytes],
    now: float,
    discard_events: bool = False,
    ledger_row: bytes | None = None,
    lease: float = 0.0,
) -> bool:
    """Replaces a live response and adds events to it; if it has finished, its run ends.

    discard_events: deletes its earlier events. ledger_row: of a call that has finished. lease: seconds that its worker
    has to write that. False if the response is not live any more, or missing: then nothing changes.
    """
    # The run first, as everywhere. Where there is none, somebody else has ended the response.
    if not _lock_run(connection, response.id):
        return False
    live = and_(_of_owner(response.owner, response.id), RESPONSES.c.status.in_(LIVE))
    old_size = connection.scalar(select(RESPONSES.c.size).where(live).with_for_update())
    if old_size is None:
        return False
    if discard_events:
        connection.execute(delete(EVENTS).where(EVENTS.c.response_id == response.id))
    _insert_events(connection, response.id, first_sequence, events)
    # Now that the new events are among them.
    size = _size(response) + _stored_events_size(connection, response.id)
    connection.execute(
        update(RESPONSES)
        .where(live)
        .values(
            status=response.status,
            size=size,
            expires_at=response.expires_at,
            model=response.model,
            body=response.body,
            items=response.items,
            output=response.output,
            answer_id=response.answer_id,
        )
    )
    added = 0
    # All of it or nothing: the end, the row for the ledger, and what the conversation gets.
    if response.status not in LIVE:
        connection.execute(delete(RUNS).where(RUNS.c.response_id == response.id))
        if ledger_row is not None:
            ledger_outbox.put(connection, response.id, ledger_row, lease)
        added = _add_to_conversation(connection, response, conversation_items, now)
    usage.add_bytes(connection, {response.owner: size - old_size + added})
    return True


def _stored_events_size(connection: Connection, id: str) -> int:
    """Returns the bytes of a live response's events, which were added without counting them."""
    size = func.coalesce(func.sum(func.length(EVENTS.c.body)), 0) + usage.EVENT_OVERHEAD * func.count()
    return int(connection.execute(select(size).where(EVENTS.c.response_id == id)).scalar_one())


def _lock_run(connection: Connection, id: str) -> bool:
    """Keeps others from ending a run before this transaction does. False if there is none."""
    # SQLite knows no locks of rows: of all transactions that write there is one at a time (`database.py`).
    return connection.scalar(select(RUNS.c.response_id).where(RUNS.c.response_id == id).with_for_update()) is not None


def renew(connection: Connection, ids: Collection[str], lease: float) -> None:
    """Extends the leases of these responses, whose worker is alive."""
    connection.execute(update(RUNS).where(RUNS.c.response_id.in_(ids)).values(lease_until=database_time() + lease))


def request_cancel(connection: Connection, owner: str, id: str) -> bool:
    """Asks the worker of a response to stop. False if the response is not live."""
    live = exists().where(_of_owner(owner, id), RESPONSES.c.status.in_(LIVE))
    return connection.execute(update(RUNS).where(RUNS.c.response_id == id, live).values(cancel=True)).rowcount > 0


def active(connection: Connection, ids: Collection[str]) -> set[str]:
    """Returns those of these ids that are live and not asked to stop."""
    return set(
        connection.scalars(select(RUNS.c.response_id).where(RUNS.c.response_id.in_(ids), RUNS.c.cancel.is_(False)))
    )


def fail_interrupted(
    connection: Connection, limit: int, end_interrupted: EndInterrupted, row_of_interrupted: RowOfInterrupted
) -> list[str]:
    """Ends at most `limit` responses whose lease is over: cancelled where that was asked for, else failed.

    Returns their ids. The ledger's rows of their calls are due at once.
    """
    interrupted = connection.execute(
        select(RUNS.c.response_id, RUNS.c.cancel, RUNS.c.ledger_row)
        .where(RUNS.c.lease_until < database_time())
        .order_by(RUNS.c.lease_until)
        .limit(limit)
        .with_for_update(skip_locked=True)  # another replica ends those, or their worker has come back
    ).all()
    ended: list[str] = []
    changes: Counter[str] = Counter()
    for id, cancel, ledger_row in interrupted:
        live = and_(RESPONSES.c.id == id, RESPONSES.c.status.in_(LIVE))
        columns = RESPONSES.c.body, RESPONSES.c.owner, RESPONSES.c.size, RESPONSES.c.status
        row = connection.execute(select(*columns).where(live)).one_or_none()
        connection.execute(delete(RUNS).where(RUNS.c.response_id == id))
        if row is None:
            continue
        status: Literal["cancelled", "failed"] = "cancelled" if cancel else "failed"
        connection.execute(update(RESPONSES).where(live).values(status=status, body=end_interrupted(row.body, status)))
        changes[row.owner] += _count_again(connection, id) - row.size
        ended.append(id)
        run = InterruptedRun(id, status, row.status != "queued", ledger_row)
        if (call := row_of_interrupted(run)) is not None:
            ledger_outbox.put(connection, id, call, 0, final=True)
    usage.add_bytes(connection, changes)
    return ended


def _count_again(connection: Connection, id: str) -> int:
    """Sets the size of a response to what it is now, its events included, and returns it."""
    lengths = func.length(RESPONSES.c.body) + func.length(RESPONSES.c["items"]) + func.length(RESPONSES.c.output)
    size = usage.ROW_OVERHEAD + connection.execute(select(lengths).where(RESPONSES.c.id == id)).scalar_one()
    size += _stored_events_size(connection, id)
    connection.execute(update(RESPONSES).where(RESPONSES.c.id == id).values(size=size))
    return int(size)


def append_events(connection: Connection, batches: Batches) -> set[str]:
    """Adds events of several responses. Events that are there already stay as they are, so that it can be repeated.

    Returns the ids of responses that are not live: nobody reads on after their last event.
    """
    # The lock keeps the runs from being deleted, and lets their leases be renewed at the same time.
    runs = select(RUNS.c.response_id).where(RUNS.c.response_id.in_(batches)).order_by(RUNS.c.response_id)
    live = set(connection.scalars(runs.with_for_update(read=True, key_share=True)))
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


def events(connection: Connection, owner: str, id: str, after: int, now: float, limit: int) -> list[tuple[int, bytes]]:
    """Returns the first `limit` events with a sequence number above `after`, in order, with their numbers."""
    newer = EVENTS.c.sequence > min(after, MAX_SEQUENCE)
    rows = connection.execute(_events(owner, id, now).where(newer).order_by(EVENTS.c.sequence).limit(limit))
    return [(row.sequence, row.body) for row in rows]


def last_event(connection: Connection, owner: str, id: str, now: float) -> tuple[int, bytes] | None:
    """Returns the event with the highest sequence number; None if there are none."""
    newest = _events(owner, id, now).order_by(EVENTS.c.sequence.desc()).limit(1)
    row = connection.execute(newest).one_or_none()
    return None if row is None else (row.sequence, row.body)


def _events(owner: str, id: str, now: float) -> Select[Any]:
    visible = _of_owner(owner, id), not_expired(RESPONSES.c.expires_at, now)
    return select(EVENTS.c.sequence, EVENTS.c.body).join_from(EVENTS, RESPONSES).where(*visible)
