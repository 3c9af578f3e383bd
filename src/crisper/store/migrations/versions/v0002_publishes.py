"""Publishing on record: messages that left and are not known to have been claimed."""

from __future__ import annotations

import sqlalchemy as sa

from crisper.store.migrations import dialect

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    dialect.create_table(
        "crisper_publish",
        sa.Column("message_id", dialect.KEY, primary_key=True),
        sa.Column("task_id", dialect.KEY, nullable=False),
        sa.Column("scope", dialect.TEXT, nullable=False),
        sa.Column("name", dialect.TEXT, nullable=False),
        sa.Column("queue", dialect.TEXT, nullable=False),
        sa.Column("retries", sa.Integer, nullable=False),
        sa.Column("missing", sa.Integer, nullable=False),
        sa.Column("vanished", sa.Integer, nullable=False),
        sa.Column("published_at", sa.BigInteger, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("loss_budget", sa.Integer, nullable=False),
        sa.Column("args_preview", dialect.TEXT, nullable=False),
        sa.Column("kwargs_preview", dialect.TEXT, nullable=False),
        sa.Column("message_size", sa.BigInteger, nullable=False),
        sa.Column("why_not_kept", dialect.TEXT),
        sa.Column("envelope", dialect.TEXT),
        sa.Column("body", dialect.BYTES),
    )
    dialect.create_index("crisper_publish_due", "crisper_publish", ["scope", "due_at"])
    dialect.create_index("crisper_publish_task", "crisper_publish", ["task_id"])
