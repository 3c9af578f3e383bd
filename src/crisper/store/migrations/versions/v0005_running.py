"""What a worker's last heartbeat told of its running attempts: one row for each worker, never for a task."""

from __future__ import annotations

import sqlalchemy as sa

from crisper.store.migrations import dialect

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    dialect.create_table(
        "crisper_running",
        sa.Column("incarnation", dialect.OWN_ID, primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("told", dialect.TEXT, nullable=False),
    )
