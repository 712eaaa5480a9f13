"""The migrations of the database. Only this package imports Alembic.

A change of `tables.py` is a new file in `versions`, and a new HEAD. Of several processes that start at once one
migrates; the others wait for it and find the work done. All of it is one transaction, the new version number included:
a process that dies in between leaves the database as it was.
"""

import sys
import threading
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, select

from gateway.store.errors import StoreUnavailable
from gateway.store.tables import HEAD

LOCK = 0x636F68657265
"""The advisory lock of PostgreSQL that a migration holds. Any number that is the same for all gateways."""

_ALEMBIC_LOCK = threading.Lock()  # Alembic keeps its context in a variable of a module


def migrate(connection: Connection) -> None:
    """Runs the missing versions in the transaction of this connection. Raises StoreUnavailable."""
    # Alembic loads Mako for its command that writes a new version, and Mako loads all of Pygments, for coloured
    # tracebacks: five megabytes that would stay. Without this module of its own Mako goes on without colours.
    modules: dict[str, Any] = sys.modules  # None stands for a module that is not to be imported
    modules.setdefault("mako.ext.pygmentplugin", None)
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
    elif not connection.in_transaction():
        connection.begin()  # or Alembic would commit each version, and another process would go on in the middle
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        with _ALEMBIC_LOCK:
            command.upgrade(config, HEAD)
    except CommandError as error:  # a newer gateway was here, whose versions are unknown to this one
        raise StoreUnavailable(f"the database cannot be brought to version {HEAD}: {error}") from error
