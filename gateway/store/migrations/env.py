"""Run by Alembic, never imported: joins the connection that `migrate` holds with the files in `versions`."""

from alembic import context

from gateway.store.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
