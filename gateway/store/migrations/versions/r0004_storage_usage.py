"""The bytes that each owner stores, counted by those who write, and probes: rows that show that the disk takes more."""

from alembic import op
from sqlalchemy import BigInteger, Column, Double, LargeBinary, PrimaryKeyConstraint, Text

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("responses", "conversations"):
        op.add_column(table, Column("size", BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "storage_usage",
        Column("owner", Text, nullable=False),
        Column("bytes", BigInteger, nullable=False),
        PrimaryKeyConstraint("owner", name="pk_storage_usage"),
    )
    op.create_table(
        "storage_probes",
        Column("id", Text, nullable=False),
        Column("written_at", Double, nullable=False),
        Column("body", LargeBinary, nullable=False),
        PrimaryKeyConstraint("id", name="pk_storage_probes"),
    )
    # Rows that are there already count from now on, without the events of live responses.
    op.execute("UPDATE responses SET size = length(body) + length(items) + length(output)")
    op.execute(
        "UPDATE conversations SET size = length(metadata) + coalesce("
        "(SELECT sum(length(body)) FROM conversation_items WHERE conversation_id = conversations.id), 0)"
    )
    op.execute(
        "INSERT INTO storage_usage (owner, bytes) SELECT owner, sum(size) FROM "
        "(SELECT owner, size FROM responses UNION ALL SELECT owner, size FROM conversations) AS stored GROUP BY owner"
    )
