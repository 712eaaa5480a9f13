"""The ledger's rows of responses that ended in the background, from their end until the ledger has them.

    put         adds the row of a response, in the transaction that ends it
    replace     puts another row in its place, unless somebody else is writing the first
    take_due    returns rows that their process has not written in time
    remove      forgets rows that the ledger has

The ledger of SQLite is another file, and the ledger of a process writes in groups: its rows cannot be part of the
transaction. Who dies between the two leaves the row here, and another process writes it.
"""

from collections.abc import Collection, Mapping

from sqlalchemy import Connection, delete, insert, select, update

from gateway.store.tables import LEDGER_OUTBOX, database_time


def put(connection: Connection, response_id: str, row: bytes, seconds: float, final: bool = False) -> None:
    """Adds a row, for which its process has so many seconds. final: it has none, and the row is not replaced."""
    due = database_time() + seconds
    connection.execute(insert(LEDGER_OUTBOX).values(response_id=response_id, due=due, final=final, row=row))


def replace(connection: Connection, response_id: str, row: bytes, seconds: float) -> bool:
    """Puts another row in the place of one, with so many seconds to write it. False if somebody else writes it."""
    own = LEDGER_OUTBOX.c.response_id == response_id, LEDGER_OUTBOX.c.final.is_(False)
    changed = update(LEDGER_OUTBOX).where(*own).values(row=row, due=database_time() + seconds)
    return connection.execute(changed).rowcount > 0


def take_due(connection: Connection, limit: int, seconds: float) -> Mapping[str, bytes]:
    """Returns rows that are due by the ids of their responses, the oldest first; nobody else gets them meanwhile.

    seconds: until they are due again, if they are not removed.
    """
    due = select(LEDGER_OUTBOX.c.response_id, LEDGER_OUTBOX.c.row).where(LEDGER_OUTBOX.c.due <= database_time())
    rows = connection.execute(due.order_by(LEDGER_OUTBOX.c.due).limit(limit).with_for_update(skip_locked=True)).all()
    if rows:
        chosen = LEDGER_OUTBOX.c.response_id.in_([id for id, _ in rows])
        # Final: whoever takes a row writes it, and its worker may not replace it any more.
        connection.execute(update(LEDGER_OUTBOX).where(chosen).values(final=True, due=database_time() + seconds))
    return {id: row for id, row in rows}


def remove(connection: Connection, response_ids: Collection[str]) -> None:
    """Forgets the rows of these responses."""
    connection.execute(delete(LEDGER_OUTBOX).where(LEDGER_OUTBOX.c.response_id.in_(response_ids)))
