"""SQLite's index of request ids in segments: random ids of a group of rows share pages of it.

The rows that there are stay one segment, 0, so that none of them is written again.
"""

from alembic import op
from sqlalchemy import Column, Integer

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("ledger", Column("segment", Integer, nullable=False, server_default="0"))
    if op.get_bind().dialect.name == "sqlite":
        op.drop_index("ix_ledger_request_id", "ledger")
        op.create_index("ix_ledger_segment", "ledger", ["segment", "request_id", "at"])
