"""The ledger's rows of responses in the background that have ended, until the ledger has them."""

from alembic import op
from sqlalchemy import Boolean, Column, Double, LargeBinary, PrimaryKeyConstraint, Text

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ledger_outbox",
        Column("response_id", Text, nullable=False),
        Column("due", Double, nullable=False),
        Column("final", Boolean, nullable=False),
        Column("row", LargeBinary, nullable=False),
        PrimaryKeyConstraint("response_id", name="pk_ledger_outbox"),
    )
    op.create_index("ix_ledger_outbox_due", "ledger_outbox", ["due"])
