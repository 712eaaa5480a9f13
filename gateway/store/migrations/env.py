"""Run by Alembic, never imported: joins the connection that `migrate` holds with the files in `versions`."""

from alembic import context

from gateway.store.tables import METADATA

# transactional_ddl: Alembic does not expect it of SQLite, whose driver used to commit before each change of a table;
# ours is told not to (database.py).
context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, transactional_ddl=True)
context.run_migrations()
