"""Reads for reports that need more than the ledger: what was changed, in the order of time with the calls."""

from collections.abc import Sequence

from sqlalchemy import Connection

from gateway.store import keys
from gateway.store.keys import Change
from gateway.store.ledger import MICROSECONDS
from gateway.store.ledger_pages import Filter, Position
from gateway.store.tables import KEY_CHANGES


def changes(connection: Connection, wanted: Filter, before: Position | None, limit: int) -> Sequence[Change]:
    """Returns changes of keys, teams and end users, newest first, that are older than a position.

    Of the filter only the times are asked for; the caller knows which others a change can have.
    """
    conditions = []
    if wanted.since is not None:
        conditions.append(KEY_CHANGES.c.time >= wanted.since / MICROSECONDS)
    if wanted.until is not None:
        conditions.append(KEY_CHANGES.c.time < wanted.until / MICROSECONDS)
    if before is not None:
        # A moment more than is wanted, because times are floats: `position_of` decides.
        conditions.append(KEY_CHANGES.c.time <= (before.at + 1) / MICROSECONDS)
    # Some more, because those of the same moment that are not before the position fall out again.
    candidates = keys.list_changes(connection, None, limit + 10, *conditions)
    return [one for one in candidates if before is None or _is_before(position_of(one), before)][:limit]


def position_of(change: Change) -> Position:
    """Returns a change's place among the rows of the ledger."""
    return Position(round(change.time * MICROSECONDS), f"change_{change.revision:020d}")


def _is_before(one: Position, other: Position) -> bool:
    return (one.at, one.id) < (other.at, other.id)
