"""PostgreSQL's housekeeping, by what each table is for; other databases have no such settings.

Rows that heartbeats write again and again keep room beside them, so that an update stays in its page and
touches no index. A table of millions of attempts is vacuumed by thousands, not by a fifth of it, so that
what is looked for among the open ones has few dead entries to step over.
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"

_BEATEN = "fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000"
_GROWING = (
    "autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 10000,"
    " autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02"
)


def upgrade() -> None:
    if op.get_context().dialect.name != "postgresql":
        return
    for table in ("crisper_incarnation", "crisper_running"):
        op.execute(f"ALTER TABLE {table} SET ({_BEATEN})")
    op.execute(f"ALTER TABLE crisper_attempt SET ({_GROWING})")
