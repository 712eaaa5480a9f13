"""Which of Cohere's jobs have been billed here: the first who sees what one cost claims it, on whatever replica."""

from collections.abc import Collection
from functools import cache
from typing import Any

from sqlalchemy import Connection, delete
from sqlalchemy.dialects import postgresql, sqlite

from gateway.store.tables import BILLED_JOBS

KEEP_DAYS = 400
"""A job that is looked at later than that would be billed again. Cohere keeps none for so long."""


def claim(connection: Connection, ids: Collection[str], now: float) -> list[str]:
    """Returns those of these jobs that nobody has claimed before; now they are claimed. now: Unix seconds."""
    connection.execute(delete(BILLED_JOBS).where(BILLED_JOBS.c.billed_at < now - KEEP_DAYS * 86_400))
    statement = _insert(connection.dialect.name)
    # In order, so that no two transactions wait for each other.
    return [id for id in sorted(ids) if connection.execute(statement, {"id": id, "billed_at": now}).rowcount]


@cache
def _insert(dialect: str) -> Any:
    statement = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(BILLED_JOBS)
    return statement.on_conflict_do_nothing(index_elements=[BILLED_JOBS.c.id])
