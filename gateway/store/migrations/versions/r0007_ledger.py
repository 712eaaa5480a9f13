"""The ledger: a row for each call, on PostgreSQL partitioned by day, and the sums that the reports read."""

from alembic import op
from sqlalchemy import BigInteger, Column, Double, LargeBinary, PrimaryKeyConstraint, Text, text

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SUM_KEY = ("key_id", "team_id", "user_id", "end_user", "model", "method", "fault")
COUNTS = ("calls", "failures", "unpriced_calls", "cost")
TOKENS = ("input", "output", "cached", "thinking", "input_tokens", "output_tokens")
UNITS = ("search_units", "images", "image_tokens", "pages", "classifications", "audio_seconds")


def upgrade() -> None:
    op.create_table(
        "ledger",
        Column("at", BigInteger, nullable=False, autoincrement=False),
        Column("id", Text, nullable=False),
        Column("request_id", Text, nullable=False),
        *(Column(name, Text) for name in ("key_id", "team_id", "user_id", "end_user", "method", "model")),
        Column("status", BigInteger, nullable=False),
        Column("fault", Text),
        Column("cost", BigInteger),
        Column("total_ms", Double, nullable=False),
        Column("sentence", Text, nullable=False),
        Column("entry", LargeBinary, nullable=False),
        PrimaryKeyConstraint("at", "id", name="pk_ledger"),
        postgresql_partition_by="RANGE (at)",
    )
    for name in ("request_id", "key_id", "team_id", "end_user", "fault"):
        present = text(f"{name} IS NOT NULL")
        op.create_index(
            f"ix_ledger_{name}", "ledger", [name, "at", "id"], sqlite_where=present, postgresql_where=present
        )
    op.create_table(
        "ledger_sums",
        *(Column(name, BigInteger, nullable=False, autoincrement=False) for name in ("scope", "seconds", "start")),
        *(Column(name, Text, nullable=False) for name in SUM_KEY),
        *(Column(name, BigInteger, nullable=False) for name in COUNTS),
        Column("total_ms", Double, nullable=False),
        *(Column(name, BigInteger, nullable=False) for name in TOKENS),
        *(Column(name, Double, nullable=False) for name in UNITS),
        PrimaryKeyConstraint("scope", "seconds", "start", *SUM_KEY, name="pk_ledger_sums"),
        sqlite_with_rowid=False,
    )
