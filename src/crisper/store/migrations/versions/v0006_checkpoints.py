"""Checkpoints: where a task said that its next attempt may go on. One for each task, the latest."""

from __future__ import annotations

import sqlalchemy as sa

from crisper.store.migrations import dialect

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    dialect.create_table(
        "crisper_checkpoint",
        sa.Column("task_id", dialect.KEY, primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("saved_at", sa.BigInteger, nullable=False),
        sa.Column("data", dialect.TEXT, nullable=False),
        sa.Column("preview", dialect.TEXT, nullable=False),
    )
