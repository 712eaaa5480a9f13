"""The ledger's row of a background response, for the case that its process does not live to write it."""

from alembic import op
from sqlalchemy import Column, LargeBinary

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", Column("ledger_row", LargeBinary))
