"""Items of conversations by their id alone: callers refer to them without saying in which conversation they are."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_conversation_items_id", "conversation_items", ["id"])
