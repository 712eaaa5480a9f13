"""Cohere's jobs that have been billed."""

from alembic import op
from sqlalchemy import Column, Double, PrimaryKeyConstraint, Text

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "billed_jobs",
        Column("id", Text, nullable=False),
        Column("billed_at", Double, nullable=False),
        PrimaryKeyConstraint("id", name="pk_billed_jobs"),
    )
