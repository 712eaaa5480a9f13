"""The first tables: responses, the runs and events of those in the background, conversations and their items."""

from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKeyConstraint,
    LargeBinary,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
)

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "responses",
        Column("id", Text, nullable=False),
        Column("owner", Text, nullable=False),
        Column("status", Text, nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("expires_at", BigInteger),
        Column("model", Text, nullable=False),
        Column("previous_id", Text),
        Column("conversation_id", Text),
        Column("background", Boolean, nullable=False),
        Column("body", LargeBinary, nullable=False),
        Column("items", LargeBinary, nullable=False),
        Column("output", LargeBinary, nullable=False),
        PrimaryKeyConstraint("id", name="pk_responses"),
    )
    op.create_index("ix_responses_expires_at", "responses", ["expires_at"])
    op.create_table(
        "runs",
        Column("response_id", Text, nullable=False),
        Column("lease_until", Double, nullable=False),
        Column("cancel", Boolean, nullable=False),
        PrimaryKeyConstraint("response_id", name="pk_runs"),
        ForeignKeyConstraint(["response_id"], ["responses.id"], name="fk_runs_response_id", ondelete="CASCADE"),
    )
    op.create_table(
        "events",
        Column("response_id", Text, nullable=False),
        Column("sequence", BigInteger, nullable=False, autoincrement=False),
        Column("body", LargeBinary, nullable=False),
        PrimaryKeyConstraint("response_id", "sequence", name="pk_events"),
        ForeignKeyConstraint(["response_id"], ["responses.id"], name="fk_events_response_id", ondelete="CASCADE"),
    )
    op.create_table(
        "conversations",
        Column("id", Text, nullable=False),
        Column("owner", Text, nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("expires_at", BigInteger),
        Column("metadata", LargeBinary, nullable=False),
        Column("next_position", BigInteger, nullable=False),
        PrimaryKeyConstraint("id", name="pk_conversations"),
    )
    op.create_index("ix_conversations_expires_at", "conversations", ["expires_at"])
    op.create_table(
        "conversation_items",
        Column("conversation_id", Text, nullable=False),
        Column("position", BigInteger, nullable=False, autoincrement=False),
        Column("id", Text, nullable=False),
        Column("body", LargeBinary, nullable=False),
        PrimaryKeyConstraint("conversation_id", "position", name="pk_conversation_items"),
        UniqueConstraint("conversation_id", "id", name="uq_conversation_items_conversation_id"),
        ForeignKeyConstraint(
            ["conversation_id"],
            ["conversations.id"],
            name="fk_conversation_items_conversation_id",
            ondelete="CASCADE",
        ),
    )
