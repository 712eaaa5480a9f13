"""Run by Alembic, never imported: runs the files in `versions` on the connection of `migrate`."""

from alembic import context

from gateway.store.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
