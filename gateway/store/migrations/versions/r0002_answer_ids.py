"""Responses by the part that the ids of their output items share. Those that were stored before are found by their own
id alone: nothing here reads the JSON that has the ids.
"""

from alembic import op
from sqlalchemy import Column, Text

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("responses", Column("answer_id", Text))
    op.create_index("ix_responses_answer_id", "responses", ["answer_id"])
