"""Orders to stop a task: who, why, when, and for which attempt of which incarnation."""

from __future__ import annotations

import sqlalchemy as sa

from crisper.store.migrations import dialect

revision = "0003"
down_revision = "0002"

_NOT_DONE = sa.text("done_at IS NULL")


def upgrade() -> None:
    dialect.create_table(
        "crisper_order",
        sa.Column("task_id", dialect.KEY, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("incarnation", dialect.OWN_ID, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("ordered_by", dialect.TEXT, nullable=False),
        sa.Column("reason", dialect.TEXT, nullable=False),
        sa.Column("ordered_at", sa.BigInteger, nullable=False),
        sa.Column("done_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("task_id", "number"),
    )
    dialect.create_index(
        "crisper_order_open",
        "crisper_order",
        ["incarnation"],
        where=_NOT_DONE,
        mariadb=["incarnation", "done_at"],
    )
