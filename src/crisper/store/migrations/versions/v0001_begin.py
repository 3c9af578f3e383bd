"""The registry as it began. Frozen: later changes are revisions of their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from crisper.store.migrations import dialect

revision = "0001"
down_revision = None

_OPEN = sa.text("state IN ('claimed', 'running')")
_UNDER_WAY = sa.text("state <> 'done'")
_UNCLEARED = sa.text("NOT cleared")

#: An SQL expression, so that a script run on two databases makes two registries.
_FRESH_ID = {
    "postgresql": "CAST(gen_random_uuid() AS TEXT)",
    "sqlite": "lower(hex(randomblob(16)))",
    "mysql": "UUID()",
}


def upgrade() -> None:
    _registry()
    _incarnation()
    _attempt()
    _recovery()
    _event()
    _leader()


def _registry() -> None:
    dialect.create_table(
        "crisper_registry",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("value", dialect.TEXT, nullable=False),
    )
    fresh = _FRESH_ID[op.get_context().dialect.name]
    insert = "INSERT IGNORE" if dialect.on_mariadb() else "INSERT"
    op.execute(f"{insert} INTO crisper_registry VALUES ('id', {fresh})")


def _incarnation() -> None:
    dialect.create_table(
        "crisper_incarnation",
        sa.Column("id", dialect.OWN_ID, primary_key=True),
        sa.Column("hostname", dialect.TEXT, nullable=False),
        sa.Column("scope", dialect.TEXT, nullable=False),
        sa.Column("host", dialect.TEXT, nullable=False),
        sa.Column("boot_id", dialect.TEXT, nullable=False),
        sa.Column("pid_namespace", dialect.TEXT, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("pid_start", sa.BigInteger, nullable=False),
        sa.Column("recorder_pid", sa.Integer, nullable=False, server_default="0"),
        sa.Column("recorder_start", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("lease_ms", sa.Integer, nullable=False),
        sa.Column("heartbeat_ms", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("counter", sa.BigInteger, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("cleared", sa.Boolean, nullable=False),
        sa.Column("evidence", dialect.TEXT, nullable=False),
        sa.Column("about", dialect.TEXT, nullable=False),
        sa.Column("pulse", dialect.TEXT, nullable=False),
    )
    dialect.create_index(
        "crisper_incarnation_live",
        "crisper_incarnation",
        ["state"],
        where=_UNCLEARED,
        mariadb=["cleared", "state"],
    )


def _attempt() -> None:
    dialect.create_table(
        "crisper_attempt",
        sa.Column("task_id", dialect.KEY, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("message_id", dialect.KEY, nullable=False),
        sa.Column("name", dialect.TEXT, nullable=False),
        sa.Column("queue", dialect.TEXT, nullable=False),
        sa.Column("incarnation", dialect.OWN_ID, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("acks_late", sa.Boolean, nullable=False),
        sa.Column("dispatched", sa.Boolean, nullable=False),
        sa.Column("redelivered", sa.Boolean, nullable=False),
        sa.Column("retries", sa.Integer, nullable=False),
        sa.Column("tag", dialect.TEXT, nullable=False),
        sa.Column("copy_refused", sa.Boolean, nullable=False),
        sa.Column("pid", sa.BigInteger),
        sa.Column("pid_start", sa.BigInteger),
        sa.Column("on_lost", sa.String(16), nullable=False),
        sa.Column("loss_budget", sa.Integer, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("runtime_ms", sa.BigInteger),
        sa.Column("closed_seq", sa.BigInteger),
        sa.Column("counted", sa.Boolean, nullable=False),
        sa.Column("reason", dialect.TEXT),
        sa.Column("args_preview", dialect.TEXT, nullable=False),
        sa.Column("kwargs_preview", dialect.TEXT, nullable=False),
        sa.Column("message_size", sa.BigInteger, nullable=False),
        sa.Column("why_not_kept", dialect.TEXT),
        sa.Column("envelope", dialect.TEXT),
        sa.Column("body", dialect.BYTES),
        *_open_by(),
        sa.PrimaryKeyConstraint("task_id", "number"),
    )
    dialect.create_index(
        "crisper_attempt_open",
        "crisper_attempt",
        ["incarnation", "seq"],
        unique=True,
        where=_OPEN,
        mariadb=["open_by", "seq"],
    )
    dialect.create_index("crisper_attempt_received", "crisper_attempt", ["received_at"])


def _open_by() -> list[sa.Column[str]]:
    """MariaDB has no partial index: what is not open any more is nobody's in this one."""
    if not dialect.on_mariadb():
        return []
    holder = sa.Computed(f"CASE WHEN {_OPEN} THEN incarnation END", persisted=True)
    return [sa.Column("open_by", dialect.OWN_ID, holder)]


def _recovery() -> None:
    dialect.create_table(
        "crisper_recovery",
        sa.Column("task_id", dialect.KEY, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("message_id", dialect.KEY, nullable=False),
        sa.Column("name", dialect.TEXT, nullable=False),
        sa.Column("scope", dialect.TEXT, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("cause", sa.String(16), nullable=False),
        sa.Column("losses", sa.Integer, nullable=False),
        sa.Column("verdict", sa.String(32)),
        sa.Column("reason", dialect.TEXT),
        sa.Column("evidence", dialect.TEXT, nullable=False),
        sa.Column("courier", dialect.TEXT),
        sa.Column("decided_by", dialect.TEXT),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("decided_at", sa.BigInteger),
        sa.Column("due_at", sa.BigInteger),
        sa.Column("sent_at", sa.BigInteger),
        sa.Column("done_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("task_id", "number"),
    )
    dialect.create_index(
        "crisper_recovery_under_way",
        "crisper_recovery",
        ["scope", "created_at"],
        where=_UNDER_WAY,
        mariadb=["scope", "state", "created_at"],
    )


def _event() -> None:
    dialect.create_table(
        "crisper_event",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("kind", dialect.TEXT, nullable=False),
        sa.Column("task_id", dialect.KEY),
        sa.Column("number", sa.Integer),
        sa.Column("incarnation", dialect.OWN_ID),
        sa.Column("seq", sa.BigInteger),
        sa.Column("actor", dialect.TEXT, nullable=False),
        sa.Column("data", dialect.TEXT, nullable=False),
        sa.UniqueConstraint("incarnation", "seq", name="crisper_event_once"),
        sqlite_autoincrement=True,
    )
    dialect.create_index("crisper_event_at", "crisper_event", ["at"])
    dialect.create_index("crisper_event_task", "crisper_event", ["task_id"])


def _leader() -> None:
    dialect.create_table(
        "crisper_leader",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("holder", dialect.TEXT, nullable=False),
        sa.Column("counter", sa.BigInteger, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
    )
