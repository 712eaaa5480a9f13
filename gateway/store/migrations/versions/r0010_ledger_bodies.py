"""Bodies of calls, labels to find rows by, sums by model alone, and smaller indexes: time orders rows well enough."""

from alembic import op
from sqlalchemy import BigInteger, Column, LargeBinary, PrimaryKeyConstraint, Text, text

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

SUMMED = (
    *("calls", "failures", "unpriced_calls", "cost", "total_ms", "input", "output", "cached", "thinking"),
    *("input_tokens", "output_tokens", "search_units", "images", "image_tokens", "pages", "classifications"),
    "audio_seconds",
)


def upgrade() -> None:
    op.add_column("ledger", Column("labels", Text))
    op.drop_index("ix_ledger_request_id", "ledger")
    # Of all rows: SQLite uses no partial index for a column that is never null.
    op.create_index("ix_ledger_request_id", "ledger", ["request_id", "at"])
    for name in ("key_id", "team_id", "end_user", "fault"):
        present = text(f"{name} IS NOT NULL")
        op.drop_index(f"ix_ledger_{name}", "ledger")
        op.create_index(f"ix_ledger_{name}", "ledger", [name, "at"], sqlite_where=present, postgresql_where=present)
    op.create_table(
        "ledger_bodies",
        Column("at", BigInteger, nullable=False, autoincrement=False),
        Column("id", Text, nullable=False),
        Column("body", LargeBinary, nullable=False),
        PrimaryKeyConstraint("at", "id", name="pk_ledger_bodies"),
        postgresql_partition_by="RANGE (at)",
    )
    amounts = ", ".join(SUMMED)
    sums = ", ".join(f"sum({name})" for name in SUMMED)
    op.execute(
        "INSERT INTO ledger_sums (scope, seconds, start, key_id, team_id, user_id, end_user, model, method, fault, "  # noqa: S608
        f"{amounts}) SELECT 2, seconds, start, '', '', '', '', model, method, fault, {sums} FROM ledger_sums "
        "WHERE scope = 0 GROUP BY seconds, start, model, method, fault"
    )
