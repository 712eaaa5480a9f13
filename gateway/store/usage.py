"""The bytes that are stored, counted per owner, and the proof that the disk takes more.

Whoever inserts, changes or deletes a response or a conversation says in the same transaction by how many bytes its
owner's count changes. That is the transaction's last statement, and owners come in order, so that no two transactions
wait for each other.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, delete, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.store.tables import PROBES, STORAGE_USAGE, database_time

ROW_OVERHEAD, ITEM_OVERHEAD, EVENT_OVERHEAD = 500, 250, 60
"""Bytes of a response or a conversation, an item and an event beside their JSON: columns, indexes, about."""

PROBE_BYTES = 64 * 1024
"""Bytes that a probe writes. They stay until the next probe, so that as many are left for a response."""

PROBE_SECONDS = 3600.0
"""Age of a probe whose process must be gone."""


class Usage(Struct, frozen=True):
    """Bytes that are stored: of one owner, and of all."""

    owner: int
    total: int


def add_bytes(connection: Connection, changes: Mapping[str, int]) -> None:
    """Adds to the counts of these owners; negative where something was deleted."""
    for owner, change in sorted(changes.items()):
        if change:
            connection.execute(_upsert(connection.dialect.name), {"owner": owner, "bytes": change})
        if change < 0:
            # An owner who stores nothing has no row: callers come and go.
            connection.execute(delete(STORAGE_USAGE).where(STORAGE_USAGE.c.owner == owner, STORAGE_USAGE.c.bytes <= 0))


@cache
def _upsert(dialect: str) -> Any:
    """Builds the statement, once: that takes longer than to run it."""
    statement = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(STORAGE_USAGE)
    total = STORAGE_USAGE.c.bytes + statement.excluded.bytes
    return statement.on_conflict_do_update(index_elements=[STORAGE_USAGE.c.owner], set_={"bytes": total})


def owner_bytes(connection: Connection, owner: str) -> int:
    """Returns the bytes that an owner stores."""
    return connection.scalar(select(STORAGE_USAGE.c.bytes).where(STORAGE_USAGE.c.owner == owner)) or 0


def total_bytes(connection: Connection) -> int:
    """Returns the bytes that all owners store."""
    return int(connection.scalar(select(func.sum(STORAGE_USAGE.c.bytes))) or 0)


def write_probe(connection: Connection, id: str, previous_id: str) -> int:
    """Writes PROBE_BYTES to a new row before the previous one goes: a full disk refuses that. Returns `total_bytes`."""
    # Like random ones: PostgreSQL compresses what it can, and of 64 KiB of zeros 762 bytes would reach the disk.
    body = hashlib.shake_128(id.encode()).digest(PROBE_BYTES)
    row = {"id": id, "written_at": database_time(), "body": body}
    connection.execute(insert(PROBES).values(row))
    connection.execute(delete(PROBES).where(PROBES.c.id == previous_id))
    return total_bytes(connection)


def delete_old_probes(connection: Connection) -> int:
    """Deletes the probes of processes that are gone."""
    return connection.execute(delete(PROBES).where(PROBES.c.written_at < database_time() - PROBE_SECONDS)).rowcount
