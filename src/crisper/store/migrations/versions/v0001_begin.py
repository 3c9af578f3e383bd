"""The registry as it began. Frozen: later changes are revisions of their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_OPEN = sa.text("state IN ('claimed', 'running')")
_UNDER_WAY = sa.text("state <> 'done'")
_UNCLEARED = sa.text("NOT cleared")

#: An SQL expression, so that a script run on two databases makes two registries.
_FRESH_ID = {"postgresql": "CAST(gen_random_uuid() AS TEXT)", "sqlite": "lower(hex(randomblob(16)))"}


def upgrade() -> None:
    _registry()
    _incarnation()
    _attempt()
    _recovery()
    _event()
    _leader()


def _registry() -> None:
    op.create_table(
        "crisper_registry",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    fresh = _FRESH_ID[op.get_context().dialect.name]
    op.execute(f"INSERT INTO crisper_registry (key, value) VALUES ('id', {fresh})")


def _incarnation() -> None:
    op.create_table(
        "crisper_incarnation",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("hostname", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("boot_id", sa.Text, nullable=False),
        sa.Column("pid_namespace", sa.Text, nullable=False),
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
        sa.Column("evidence", sa.Text, nullable=False),
        sa.Column("about", sa.Text, nullable=False),
        sa.Column("pulse", sa.Text, nullable=False),
    )
    op.create_index(
        "crisper_incarnation_live",
        "crisper_incarnation",
        ["state"],
        postgresql_where=_UNCLEARED,
        sqlite_where=_UNCLEARED,
    )


def _attempt() -> None:
    op.create_table(
        "crisper_attempt",
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("incarnation", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("acks_late", sa.Boolean, nullable=False),
        sa.Column("dispatched", sa.Boolean, nullable=False),
        sa.Column("redelivered", sa.Boolean, nullable=False),
        sa.Column("retries", sa.Integer, nullable=False),
        sa.Column("tag", sa.Text, nullable=False),
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
        sa.Column("reason", sa.Text),
        sa.Column("args_preview", sa.Text, nullable=False),
        sa.Column("kwargs_preview", sa.Text, nullable=False),
        sa.Column("message_size", sa.BigInteger, nullable=False),
        sa.Column("why_not_kept", sa.Text),
        sa.Column("envelope", sa.Text),
        sa.Column("body", sa.LargeBinary),
        sa.PrimaryKeyConstraint("task_id", "number"),
    )
    op.create_index(
        "crisper_attempt_open",
        "crisper_attempt",
        ["incarnation", "seq"],
        unique=True,
        postgresql_where=_OPEN,
        sqlite_where=_OPEN,
    )
    op.create_index("crisper_attempt_received", "crisper_attempt", ["received_at"])


def _recovery() -> None:
    op.create_table(
        "crisper_recovery",
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("cause", sa.String(16), nullable=False),
        sa.Column("losses", sa.Integer, nullable=False),
        sa.Column("verdict", sa.String(32)),
        sa.Column("reason", sa.Text),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.Column("courier", sa.Text),
        sa.Column("decided_by", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("decided_at", sa.BigInteger),
        sa.Column("due_at", sa.BigInteger),
        sa.Column("sent_at", sa.BigInteger),
        sa.Column("done_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("task_id", "number"),
    )
    op.create_index(
        "crisper_recovery_under_way",
        "crisper_recovery",
        ["scope", "created_at"],
        postgresql_where=_UNDER_WAY,
        sqlite_where=_UNDER_WAY,
    )


def _event() -> None:
    op.create_table(
        "crisper_event",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("task_id", sa.Text),
        sa.Column("number", sa.Integer),
        sa.Column("incarnation", sa.Text),
        sa.Column("seq", sa.BigInteger),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.UniqueConstraint("incarnation", "seq", name="crisper_event_once"),
        sqlite_autoincrement=True,
    )
    op.create_index("crisper_event_at", "crisper_event", ["at"])
    op.create_index("crisper_event_task", "crisper_event", ["task_id"])


def _leader() -> None:
    op.create_table(
        "crisper_leader",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("counter", sa.BigInteger, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
    )
