"""The registry's tables, for migrations and for the questions people ask.

Times are milliseconds of the registry's clock since the epoch, for display
only: nothing is judged by them. What comes from outside (ids and names of
tasks, hosts, tags) has no length that a database could refuse: `String` is only
for words and ids of our own. The recorder's own statements are in
`store.sql`; it does not import this module, because SQLAlchemy alone would
take more memory than the whole recorder may.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects import mysql

#: MariaDB indexes only text of a limited length; its plain TEXT ends at 64 KiB.
Key = Text().with_variant(mysql.VARCHAR(760), "mysql")  # `core.text.key`
OwnId = Text().with_variant(mysql.VARCHAR(190), "mysql")
AnyText = Text().with_variant(mysql.LONGTEXT(), "mysql")
AnyBytes = LargeBinary().with_variant(mysql.LONGBLOB(), "mysql")

metadata = MetaData()

_OPEN = text("state IN ('claimed', 'running')")
#: States of attempts that came to no result of their own, as their index has them.
FAILED = ("failed", "lost", "rejected", "revoked")
_FAILED = text("state IN ('failed', 'lost', 'rejected', 'revoked')")
_UNDER_WAY = text("state <> 'done'")
_DONE = text("state = 'done'")
#: Verdicts after which the message is meant to run again, as their index has them.
BRINGS_BACK = ("await_redelivery", "hand_back", "recover", "redelivered", "resend")
_SENT = text(
    "state = 'done' AND followed_at IS NULL"
    " AND verdict IN ('await_redelivery', 'hand_back', 'recover', 'redelivered', 'resend')"
)
_NOT_DONE = text("done_at IS NULL")

registry = Table(
    "crisper_registry",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", AnyText, nullable=False),
)

incarnation = Table(
    "crisper_incarnation",
    metadata,
    Column("id", OwnId, primary_key=True),
    Column("hostname", AnyText, nullable=False),
    Column("scope", AnyText, nullable=False),
    Column("host", AnyText, nullable=False),
    Column("boot_id", AnyText, nullable=False),
    Column("pid_namespace", AnyText, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("pid_start", BigInteger, nullable=False),
    Column("recorder_pid", Integer, nullable=False, server_default="0"),
    Column("recorder_start", BigInteger, nullable=False, server_default="0"),
    Column("lease_ms", Integer, nullable=False),
    Column("heartbeat_ms", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("counter", BigInteger, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("cleared", Boolean, nullable=False),
    Column("evidence", AnyText, nullable=False),
    Column("about", AnyText, nullable=False),
    Column("pulse", AnyText, nullable=False),
)
Index(
    "crisper_incarnation_live",
    incarnation.c.state,
    postgresql_where=text("NOT cleared"),
    sqlite_where=text("NOT cleared"),
)

#: What each worker's last heartbeat told of the attempts that ran, by the seq of their claims: not a part of
#: the worker's own row, which every sweeper reads.
running = Table(
    "crisper_running",
    metadata,
    Column("incarnation", OwnId, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("told", AnyText, nullable=False),
)

attempt = Table(
    "crisper_attempt",
    metadata,
    Column("task_id", Key, nullable=False),
    Column("number", Integer, nullable=False),
    Column("message_id", Key, nullable=False),
    Column("name", AnyText, nullable=False),
    Column("queue", AnyText, nullable=False),
    Column("incarnation", OwnId, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("acks_late", Boolean, nullable=False),
    Column("dispatched", Boolean, nullable=False),
    Column("redelivered", Boolean, nullable=False),
    Column("retries", Integer, nullable=False),
    Column("tag", AnyText, nullable=False),
    Column("copy_refused", Boolean, nullable=False),
    Column("pid", BigInteger),
    Column("pid_start", BigInteger),
    Column("on_lost", String(16), nullable=False),
    Column("loss_budget", Integer, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    Column("runtime_ms", BigInteger),
    Column("closed_seq", BigInteger),
    Column("counted", Boolean, nullable=False),
    Column("reason", AnyText),
    Column("args_preview", AnyText, nullable=False),
    Column("kwargs_preview", AnyText, nullable=False),
    Column("message_size", BigInteger, nullable=False),
    Column("why_not_kept", AnyText),
    Column("envelope", AnyText),
    Column("body", AnyBytes),
    PrimaryKeyConstraint("task_id", "number"),
)
Index(
    "crisper_attempt_open",
    attempt.c.incarnation,
    attempt.c.seq,
    unique=True,
    postgresql_include=["state", "received_at", "started_at"],
    postgresql_where=_OPEN,
    sqlite_where=_OPEN,
)
Index("crisper_attempt_received", attempt.c.received_at)
#: Not on MariaDB, which has no partial indexes (`migrations/versions/v0007_failed.py`).
Index(
    "crisper_attempt_failed",
    attempt.c.received_at,
    postgresql_where=_FAILED,
    sqlite_where=_FAILED,
)

recovery = Table(
    "crisper_recovery",
    metadata,
    Column("task_id", Key, nullable=False),
    Column("number", Integer, nullable=False),
    Column("message_id", Key, nullable=False),
    Column("name", AnyText, nullable=False),
    Column("scope", AnyText, nullable=False),
    Column("state", String(16), nullable=False),
    Column("version", Integer, nullable=False),
    Column("cause", String(16), nullable=False),
    Column("losses", Integer, nullable=False),
    Column("verdict", String(32)),
    Column("reason", AnyText),
    Column("evidence", AnyText, nullable=False),
    Column("courier", AnyText),
    Column("decided_by", AnyText),
    Column("created_at", BigInteger, nullable=False),
    Column("decided_at", BigInteger),
    Column("due_at", BigInteger),
    Column("sent_at", BigInteger),
    Column("done_at", BigInteger),
    #: When a later attempt of its task came on record; null of what is not back yet.
    Column("followed_at", BigInteger),
    PrimaryKeyConstraint("task_id", "number"),
)
Index(
    "crisper_recovery_under_way",
    recovery.c.scope,
    recovery.c.created_at,
    postgresql_where=_UNDER_WAY,
    sqlite_where=_UNDER_WAY,
    mysql_length={"scope": 190},
)
Index("crisper_recovery_done", recovery.c.done_at, postgresql_where=_DONE, sqlite_where=_DONE)
#: Not on MariaDB.
Index("crisper_recovery_sent", recovery.c.done_at, postgresql_where=_SENT, sqlite_where=_SENT)

order = Table(
    "crisper_order",
    metadata,
    Column("task_id", Key, nullable=False),
    Column("number", Integer, nullable=False),
    Column("incarnation", OwnId, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("ordered_by", AnyText, nullable=False),
    Column("reason", AnyText, nullable=False),
    Column("ordered_at", BigInteger, nullable=False),
    Column("done_at", BigInteger),
    PrimaryKeyConstraint("task_id", "number"),
)
Index(
    "crisper_order_open",
    order.c.incarnation,
    postgresql_where=_NOT_DONE,
    sqlite_where=_NOT_DONE,
)

#: Where a task said that its next attempt may go on: the latest of each task.
checkpoint = Table(
    "crisper_checkpoint",
    metadata,
    Column("task_id", Key, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("saved_at", BigInteger, nullable=False),
    Column("data", AnyText, nullable=False),
    Column("preview", AnyText, nullable=False),
)

event = Table(
    "crisper_event",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("kind", AnyText, nullable=False),
    Column("task_id", Key),
    Column("number", Integer),
    Column("incarnation", OwnId),
    Column("seq", BigInteger),
    Column("actor", AnyText, nullable=False),
    Column("data", AnyText, nullable=False),
    UniqueConstraint("incarnation", "seq", name="crisper_event_once"),
    sqlite_autoincrement=True,
)
Index("crisper_event_task", event.c.task_id)
Index("crisper_event_at", event.c.at)

#: What left a publisher and is not known to have been claimed: a claim is noticed when it is looked for.
publish = Table(
    "crisper_publish",
    metadata,
    Column("message_id", Key, primary_key=True),
    Column("task_id", Key, nullable=False),
    Column("scope", AnyText, nullable=False),
    Column("name", AnyText, nullable=False),
    Column("queue", AnyText, nullable=False),
    Column("retries", Integer, nullable=False),
    Column("missing", Integer, nullable=False),  # looks in a row that did not find it
    Column("vanished", Integer, nullable=False),  # times it was declared so
    Column("published_at", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("loss_budget", Integer, nullable=False),
    Column("args_preview", AnyText, nullable=False),
    Column("kwargs_preview", AnyText, nullable=False),
    Column("message_size", BigInteger, nullable=False),
    Column("why_not_kept", AnyText),
    Column("envelope", AnyText),
    Column("body", AnyBytes),
)
Index("crisper_publish_due", publish.c.scope, publish.c.due_at, mysql_length={"scope": 190})
Index("crisper_publish_task", publish.c.task_id)

leader = Table(
    "crisper_leader",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", AnyText, nullable=False),
    Column("counter", BigInteger, nullable=False),
    Column("since", BigInteger, nullable=False),
)
