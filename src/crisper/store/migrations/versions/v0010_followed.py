"""What pages of the present read: what is open without its rows, what was sent again and is not back yet.

The index of open attempts tells their states and times itself. It is written whenever they change in any
case, because its condition names the state. A recovery is marked once a later attempt of its task is on
record, so that an index holds the few that are not. An older Crisper does not mark them: whoever asks looks
at the attempts too, and has more to look at then.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from crisper.store.migrations import dialect

revision = "0010"
down_revision = "0009"

_OPEN = sa.text("state IN ('claimed', 'running')")
_SENT = sa.text(
    "state = 'done' AND followed_at IS NULL"
    " AND verdict IN ('await_redelivery', 'hand_back', 'recover', 'redelivered', 'resend')"
)


def upgrade() -> None:
    dialect.add_column("crisper_recovery", sa.Column("followed_at", sa.BigInteger))
    op.execute(
        "UPDATE crisper_recovery SET followed_at = done_at WHERE state = 'done' AND EXISTS"
        " (SELECT 1 FROM crisper_attempt a WHERE a.task_id = crisper_recovery.task_id"
        " AND a.number > crisper_recovery.number)"
    )
    if not dialect.on_mariadb():  # it has no partial indexes
        dialect.create_index("crisper_recovery_sent", "crisper_recovery", ["done_at"], where=_SENT)
    if op.get_context().dialect.name == "postgresql":
        _tell_more_of_what_is_open()


def _tell_more_of_what_is_open() -> None:
    """It is read while the new one is built."""
    op.create_index(
        "crisper_attempt_open_new",
        "crisper_attempt",
        ["incarnation", "seq"],
        unique=True,
        postgresql_where=_OPEN,
        postgresql_include=["state", "received_at", "started_at"],
    )
    op.drop_index("crisper_attempt_open", "crisper_attempt")
    op.execute("ALTER INDEX crisper_attempt_open_new RENAME TO crisper_attempt_open")
