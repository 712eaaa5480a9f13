"""How a database gets its tables: `upgrade` brings it to the newest version, and is all that imports Alembic.

A change of `tables.py` is a new file in `versions`, and a new HEAD. Of several processes that start at once one
migrates, the others wait for it and find the work done. All of it is one transaction, the new version number included:
a process that dies in between leaves the database as it was.
"""

import threading
from pathlib import Path

from sqlalchemy import Connection, func, select

from gateway.store.errors import StoreUnavailable
from gateway.store.tables import HEAD

LOCK = 0x636F68657265
"""Who holds this of PostgreSQL migrates. Any number, as long as it is the same for all gateways."""

_ALEMBIC_IS_GLOBAL = threading.Lock()  # it keeps the connection in hand in a variable of its module


def migrate(connection: Connection) -> None:
    """Runs what is missing, inside the transaction that this connection is in. Raises StoreUnavailable."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        with _ALEMBIC_IS_GLOBAL:
            command.upgrade(config, HEAD)
    except CommandError as error:  # a newer gateway was here: its versions are unknown to this one
        raise StoreUnavailable(f"the database cannot be brought to version {HEAD}: {error}") from error
