"""How long calls took, counted by buckets in the sums: a mean does not say how long the slow ones take."""

from alembic import op
from sqlalchemy import Column, Integer

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

BUCKETS = 17


def upgrade() -> None:
    with op.batch_alter_table("ledger_sums", recreate="never") as table:
        for name in ("total_ms", "ttft_ms"):
            for bucket in range(BUCKETS):
                table.add_column(Column(f"{name}_{bucket}", Integer, nullable=False, server_default="0"))
