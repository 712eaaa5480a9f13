"""Keys, teams and end users in the database: written one change at a time, each with a revision and an audit row.

Each function runs inside one transaction (`database.py`): `store.write(lambda c: keys.insert(c, [key], by, now))`.

    insert          adds records; all or none
    update          merges fields into a record, as it is at that moment: the later of two updates wins whole fields
    rotate          gives a key another secret; the old one may be accepted for a while
    delete          refuses a record from now on; the row stays for reports
    find            one record by id, alias or digest
    list_records    a page of records
    load_all        everything, for a snapshot; `changes_since` what a snapshot lacks
    list_changes    the audit: who changed what

Every write locks the row of the revision first. So writes follow one another, revisions become visible in their order,
and whoever has seen revision N has seen all changes up to it. Which fields make sense is not decided here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Table,
    func,
    select,
)
from sqlalchemy import delete as delete_rows
from sqlalchemy import insert as insert_rows
from sqlalchemy import update as update_rows

from gateway.store.errors import NameTaken
from gateway.store.tables import (
    END_USERS,
    ENDED_SESSIONS,
    KEY_CHANGES,
    KEY_DIGESTS,
    KEY_REVISION,
    KEYS,
    TEAMS,
    insert_new,
)
from gateway.virtual_keys import EndUser, PackedKey, PreviousDigest, Records, Team, VirtualKey

CHANNEL = "cohere_gateway_keys"
"""The channel on which every change is announced: PostgreSQL's, where the message is the revision, and that of Redis,
where it is empty (`key_announcements.py`).
"""

REMOVED = "removed"
"""What an audit row shows in the place of a digest."""


class ChangedBy(Struct, frozen=True):
    """Who makes a change. name: of the principal, or of the operating system's user. address: from where."""

    name: str
    address: str = ""


class Change(Struct, frozen=True):
    """An audit row.

    action: created, updated, blocked, unblocked, rotated or deleted. kind: key, team or end_user.
    before, after: the record as JSON without digests; None where there was none.
    """

    revision: int
    time: float
    author: str
    address: str
    action: str
    kind: str
    object_id: str
    before: bytes | None
    after: bytes | None


class _Kind(Struct, frozen=True):
    name: str
    table: Table
    id: str
    alias: str


Stored = TypeVar("Stored", VirtualKey, Team, EndUser)

_KINDS: Mapping[type, _Kind] = {
    VirtualKey: _Kind("key", KEYS, "key_id", "key_alias"),
    Team: _Kind("team", TEAMS, "team_id", "team_alias"),
    EndUser: _Kind("end_user", END_USERS, "user_id", "alias"),
}
_DECODERS: Mapping[type, msgspec.json.Decoder[Any]] = {kind: msgspec.json.Decoder(kind) for kind in _KINDS}
_encode = msgspec.json.Encoder().encode


# --- writing --------------------------------------------------------------------------------------------------


def insert(connection: Connection, records: Sequence[Stored], by: ChangedBy, now: float) -> list[Stored]:
    """Adds records of one kind, all or none. Returns them as they are stored.

    now: Unix seconds. Raises NameTaken for an id, an alias or a digest that is there already.
    """
    if not records:
        return []
    kind = _KINDS[type(records[0])]
    # Before anything is looked at: no other writer can take a name between the look and the insert.
    last = _next_revision(connection, len(records))
    # A revision for each, by which the audit knows its rows.
    numbers = range(last - len(records) + 1, last + 1)
    times = {"created_at": now, "updated_at": now, "created_by": by.name, "updated_by": by.name}
    stored = [replace(record, revision=number, **times) for record, number in zip(records, numbers, strict=True)]
    # Of deleted records as well, whose ids are not given again.
    _refuse_taken(connection, kind.table.c.id, [getattr(record, kind.id) for record in stored], kind.id)
    _refuse_taken_names(connection, stored)
    connection.execute(insert_rows(kind.table), [_row(kind, record) for record in stored])
    _insert_digests(connection, stored)
    _audit(connection, [_change(kind, "created", None, record, by, now) for record in stored])
    return stored


def update(
    connection: Connection,
    kind: type[Stored],
    id: str,
    fields: Mapping[str, Any],
    by: ChangedBy,
    now: float,
    action: str = "updated",
) -> Stored | None:
    """Merges fields of the record's own type into it; those left out stay. None if there is none.

    action: the audit's word for it. Raises NameTaken for an alias that another one has.
    """
    return _change_record(connection, kind, id, action, lambda record: fields, by, now)


def rotate(
    connection: Connection,
    key_id: str,
    digest: str,
    last_four: str,
    by: ChangedBy,
    now: float,
    valid_until: float | None = None,
    fields: Mapping[str, Any] | None = None,
) -> VirtualKey | None:
    """Gives a key another secret, and merges fields into it. None if there is no such key.

    valid_until: Unix seconds until which the old secret is accepted as well; None is not at all. Raises NameTaken.
    """

    def changes(key: VirtualKey) -> Mapping[str, Any]:
        # Those whose time is over go at each rotation, so that the list does not grow.
        previous = tuple(one for one in key.previous if one.valid_until > now)
        if valid_until is not None:
            previous = (*previous, PreviousDigest(key.digest, valid_until))
        return {
            **(fields or {}),
            "digest": digest,
            "last_four": last_four,
            "previous": previous,
            "replaced": key.digest,
            "rotation_count": key.rotation_count + 1,
            "last_rotation_at": now,
        }

    return _change_record(connection, VirtualKey, key_id, "rotated", changes, by, now)


def delete(connection: Connection, kind: type[Stored], id: str, by: ChangedBy, now: float) -> Stored | None:
    """Deletes a record: nobody finds it by alias or digest any more. Returns what is left of it; None if none was."""
    fields: dict[str, Any] = {"deleted_at": now}
    if kind is VirtualKey:
        fields |= {"digest": "", "previous": (), "replaced": ""}
    return _change_record(connection, kind, id, "deleted", lambda record: fields, by, now)


def end_session(connection: Connection, id: str, ends_at: float, now: float) -> None:
    """Records that a session of the console was signed out. ends_at, now: Unix seconds; what is over is forgotten."""
    connection.execute(delete_rows(ENDED_SESSIONS).where(ENDED_SESSIONS.c.ends_at < now))
    row = {"id": id, "revision": _next_revision(connection), "ends_at": ends_at}
    connection.execute(insert_new(connection, ENDED_SESSIONS), [row])


def _change_record(
    connection: Connection,
    kind: type[Stored],
    id: str,
    action: str,
    changes: Callable[[Stored], Mapping[str, Any]],
    by: ChangedBy,
    now: float,
) -> Stored | None:
    revision = _next_revision(connection)  # first of all: now nobody else writes
    before = get(connection, kind, id)
    if before is None:
        return None
    after = replace(before, **{**changes(before), "revision": revision, "updated_at": now, "updated_by": by.name})
    description = _KINDS[kind]
    table = description.table
    _refuse_taken_names(connection, [after], id)
    connection.execute(update_rows(table).where(table.c.id == id).values(_row(description, after)))
    if isinstance(after, VirtualKey):
        # All of them anew: a rotation adds one and drops those whose time is over.
        connection.execute(delete_rows(KEY_DIGESTS).where(KEY_DIGESTS.c.key_id == id))
        _insert_digests(connection, [after])
    _audit(connection, [_change(description, action, before, after, by, now)])
    return after


def _next_revision(connection: Connection, count: int = 1) -> int:
    """Takes the next revisions and returns the last of them. Other writers wait until this transaction has ended."""
    value = KEY_REVISION.c.value
    revision = int(
        connection.execute(update_rows(KEY_REVISION).values(value=value + count).returning(value)).scalar_one()
    )
    if connection.dialect.name == "postgresql":  # PostgreSQL sends it when this transaction has been committed
        connection.execute(select(func.pg_notify(CHANNEL, str(revision))))
    return revision


def _refuse_taken_names(connection: Connection, records: Sequence[Any], own_id: str = "") -> None:
    """Raises NameTaken for an alias or a digest of another key. What is free now is free when it is taken."""
    keys = [record for record in records if isinstance(record, VirtualKey)]
    aliases = [key.key_alias for key in keys if key.key_alias is not None and key.deleted_at is None]
    _refuse_taken(connection, KEYS.c.alias, aliases, "key_alias", KEYS.c.id != own_id)
    digests = [row["digest"] for row in _digest_rows(keys)]
    _refuse_taken(connection, KEY_DIGESTS.c.digest, digests, "key", KEY_DIGESTS.c.key_id != own_id)


def _refuse_taken(
    connection: Connection, column: Column[Any], values: Sequence[str], field: str, *conditions: ColumnElement[bool]
) -> None:
    # Twice among those that are to be added.
    if len(set(values)) < len(values):
        raise NameTaken(field)
    for part in _parts(values):
        if connection.scalar(select(column).where(column.in_(part), *conditions).limit(1)) is not None:
            raise NameTaken(field)


def _parts(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yields values in numbers that fit into one statement."""
    for start in range(0, len(values), 1000):
        yield values[start : start + 1000]


def _row(kind: _Kind, record: Any) -> dict[str, Any]:
    alive = record.deleted_at is None
    row = {
        "id": getattr(record, kind.id),
        # NULL is not held to be unique: the alias of a deleted key may be given to another.
        "alias": getattr(record, kind.alias) if alive else None,
        "blocked": record.blocked,
        "created_at": record.created_at,
        "deleted_at": record.deleted_at,
        "revision": record.revision,
        "body": _encode(record),
    }
    if isinstance(record, VirtualKey):
        row |= {"team_id": record.team_id, "user_id": record.user_id, "expires": record.expires}
    return row


def _digest_rows(records: Sequence[Any]) -> list[dict[str, str]]:
    return [
        {"digest": digest, "key_id": key.key_id}
        for key in records
        if isinstance(key, VirtualKey)
        for digest in (key.digest, *(one.digest for one in key.previous))
        if digest
    ]


def _insert_digests(connection: Connection, records: Sequence[Any]) -> None:
    if rows := _digest_rows(records):
        connection.execute(insert_rows(KEY_DIGESTS), rows)


# --- the audit ------------------------------------------------------------------------------------------------


def _change(kind: _Kind, action: str, before: Any, after: Any, by: ChangedBy, now: float) -> Change:
    return Change(
        after.revision,
        now,
        by.name,
        by.address,
        action,
        kind.name,
        getattr(after, kind.id),
        None if before is None else _encode(_without_digests(before)),
        _encode(_without_digests(after)),
    )


def _without_digests(record: Any) -> Any:
    """Leaves digests out: they are no secrets, but whoever has a list of leaked secrets could look for them."""
    if not isinstance(record, VirtualKey):
        return record
    previous = tuple(PreviousDigest(REMOVED, one.valid_until) for one in record.previous)
    removed = {name: REMOVED for name in ("digest", "replaced") if getattr(record, name)}
    return replace(record, previous=previous, **removed)


def _audit(connection: Connection, changes: Sequence[Change]) -> None:
    connection.execute(insert_rows(KEY_CHANGES), [msgspec.structs.asdict(change) for change in changes])


def list_changes(
    connection: Connection, before_revision: int | None = None, limit: int = 100, *conditions: ColumnElement[bool]
) -> list[Change]:
    """Returns a page of the audit, newest first. before_revision: of the last change of the page before.

    conditions: on columns of KEY_CHANGES.
    """
    columns = [KEY_CHANGES.c[name] for name in Change.__struct_fields__]
    if before_revision is not None:
        conditions = (*conditions, KEY_CHANGES.c.revision < before_revision)
    query = select(*columns).where(*conditions).order_by(KEY_CHANGES.c.revision.desc()).limit(limit)
    return [Change(*row) for row in connection.execute(query)]


# --- reading --------------------------------------------------------------------------------------------------


def get(connection: Connection, kind: type[Stored], id: str) -> Stored | None:
    """Returns a record by its id; None for one that is missing or deleted."""
    table = _KINDS[kind].table
    body = connection.scalar(select(table.c.body).where(table.c.id == id, table.c.deleted_at.is_(None)))
    return None if body is None else _decode(kind, body)


def find(connection: Connection, kind: type[Stored], reference: str) -> Stored | None:
    """Returns the record that an id, a digest or an alias means, in this order; None for a missing or deleted one."""
    if (record := get(connection, kind, reference)) is not None:
        return record
    table = _KINDS[kind].table
    meant = table.c.alias == reference
    if kind is VirtualKey:
        by_digest = select(KEY_DIGESTS.c.key_id).where(KEY_DIGESTS.c.digest == reference)
        id = connection.scalar(by_digest)
        if id is not None:
            return get(connection, kind, id)
    # Two are asked for, because aliases of teams and end users are not unique: one that several have means none.
    bodies = connection.scalars(select(table.c.body).where(meant, table.c.deleted_at.is_(None)).limit(2)).all()
    return _decode(kind, bodies[0]) if len(bodies) == 1 else None


class RecordPage(Struct, frozen=True):
    """A page of records and the number of all that fit."""

    records: list[Any]
    total: int


def list_records(
    connection: Connection,
    kind: type[Stored],
    conditions: Sequence[ColumnElement[bool]] = (),
    offset: int = 0,
    limit: int = 100,
    order_by: ColumnElement[Any] | None = None,
) -> RecordPage:
    """Returns a page of records, newest first unless `order_by` says otherwise.

    conditions: on the columns of KEYS, TEAMS or END_USERS; without any, deleted records are among them.
    """
    table = _KINDS[kind].table
    total = connection.scalar(select(func.count()).select_from(table).where(*conditions)) or 0
    # By id in the end, or pages might overlap where times are equal.
    order = (table.c.created_at.desc() if order_by is None else order_by), table.c.id
    rows = connection.scalars(select(table.c.body).where(*conditions).order_by(*order).offset(offset).limit(limit))
    return RecordPage([_decode(kind, body) for body in rows], total)


def load_all(connection: Connection) -> Records:
    """Returns all records that are not deleted."""
    return _load(connection, lambda table: table.c.deleted_at.is_(None), 0)


def changes_since(connection: Connection, revision: int) -> Records | None:
    """Returns all records with a higher revision, deleted ones included; None if nothing has changed."""
    # Each process asks every second: nearly always this one row is all that is read.
    if current_revision(connection) == revision:
        return None
    return _load(connection, lambda table: table.c.revision > revision, revision)


def current_revision(connection: Connection) -> int:
    """Returns the revision of the last change."""
    return int(connection.scalar(select(KEY_REVISION.c.value)) or 0)


def _load(connection: Connection, condition: Callable[[Table], ColumnElement[bool]], since: int) -> Records:
    # The revision first: what is changed between these queries is then loaded once more by the next one.
    revision = current_revision(connection)
    return Records(
        revision,
        tuple(map(PackedKey.of, _bodies(connection, VirtualKey, condition))),
        tuple(_decode(Team, body) for body in _bodies(connection, Team, condition)),
        tuple(_decode(EndUser, body) for body in _bodies(connection, EndUser, condition)),
        _ended_sessions(connection, since),
    )


def _ended_sessions(connection: Connection, since: int) -> tuple[tuple[str, float], ...]:
    columns = ENDED_SESSIONS.c
    rows = connection.execute(select(columns.id, columns.ends_at).where(columns.revision > since)).all()
    return tuple((row.id, row.ends_at) for row in rows)


def _bodies(connection: Connection, kind: type, condition: Callable[[Table], ColumnElement[bool]]) -> Sequence[bytes]:
    table = _KINDS[kind].table
    return connection.scalars(select(table.c.body).where(condition(table))).all()


def _decode(kind: type[Stored], body: bytes) -> Stored:
    record: Stored = _DECODERS[kind].decode(body)
    return record
