"""Publishing on record: messages that left and are not known to have been claimed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "crisper_publish",
        sa.Column("message_id", sa.Text, primary_key=True),
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("retries", sa.Integer, nullable=False),
        sa.Column("missing", sa.Integer, nullable=False),
        sa.Column("vanished", sa.Integer, nullable=False),
        sa.Column("published_at", sa.BigInteger, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("loss_budget", sa.Integer, nullable=False),
        sa.Column("args_preview", sa.Text, nullable=False),
        sa.Column("kwargs_preview", sa.Text, nullable=False),
        sa.Column("message_size", sa.BigInteger, nullable=False),
        sa.Column("why_not_kept", sa.Text),
        sa.Column("envelope", sa.Text),
        sa.Column("body", sa.LargeBinary),
    )
    op.create_index("crisper_publish_due", "crisper_publish", ["scope", "due_at"])
    op.create_index("crisper_publish_task", "crisper_publish", ["task_id"])
