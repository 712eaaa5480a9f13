"""Keys, teams and end users, the revision that tells what changed, and who changed it."""

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

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "virtual_keys",
        Column("id", Text, nullable=False),
        Column("alias", Text),
        Column("team_id", Text),
        Column("user_id", Text),
        Column("blocked", Boolean, nullable=False),
        Column("expires", Double),
        Column("created_at", Double, nullable=False),
        Column("deleted_at", Double),
        Column("revision", BigInteger, nullable=False),
        Column("body", LargeBinary, nullable=False),
        PrimaryKeyConstraint("id", name="pk_virtual_keys"),
        UniqueConstraint("alias", name="uq_virtual_keys_alias"),
    )
    for column in ("team_id", "user_id", "revision"):
        op.create_index(f"ix_virtual_keys_{column}", "virtual_keys", [column])
    op.create_table(
        "key_digests",
        Column("digest", Text, nullable=False),
        Column("key_id", Text, nullable=False),
        PrimaryKeyConstraint("digest", name="pk_key_digests"),
        ForeignKeyConstraint(["key_id"], ["virtual_keys.id"], name="fk_key_digests_key_id", ondelete="CASCADE"),
    )
    op.create_index("ix_key_digests_key_id", "key_digests", ["key_id"])
    for table in ("teams", "end_users"):
        op.create_table(
            table,
            Column("id", Text, nullable=False),
            Column("alias", Text),
            Column("blocked", Boolean, nullable=False),
            Column("created_at", Double, nullable=False),
            Column("deleted_at", Double),
            Column("revision", BigInteger, nullable=False),
            Column("body", LargeBinary, nullable=False),
            PrimaryKeyConstraint("id", name=f"pk_{table}"),
        )
        op.create_index(f"ix_{table}_revision", table, ["revision"])
    op.create_table(
        "key_revision",
        Column("id", BigInteger, nullable=False, autoincrement=False),
        Column("value", BigInteger, nullable=False),
        PrimaryKeyConstraint("id", name="pk_key_revision"),
    )
    op.execute("INSERT INTO key_revision (id, value) VALUES (1, 0)")
    op.create_table(
        "key_changes",
        Column("revision", BigInteger, nullable=False, autoincrement=False),
        Column("time", Double, nullable=False),
        Column("author", Text, nullable=False),
        Column("address", Text, nullable=False),
        Column("action", Text, nullable=False),
        Column("kind", Text, nullable=False),
        Column("object_id", Text, nullable=False),
        Column("before", LargeBinary),
        Column("after", LargeBinary),
        PrimaryKeyConstraint("revision", name="pk_key_changes"),
    )
    for column in ("time", "object_id"):
        op.create_index(f"ix_key_changes_{column}", "key_changes", [column])
