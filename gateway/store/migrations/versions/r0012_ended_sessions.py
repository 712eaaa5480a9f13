"""Sessions of the console that were signed out."""

from alembic import op
from sqlalchemy import BigInteger, Column, Double, PrimaryKeyConstraint, Text

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ended_sessions",
        Column("id", Text, nullable=False),
        Column("revision", BigInteger, nullable=False),
        Column("ends_at", Double, nullable=False),
        PrimaryKeyConstraint("id", name="pk_ended_sessions"),
    )
    op.create_index("ix_ended_sessions_revision", "ended_sessions", ["revision"])
