"""An index of the attempts that came to no result of their own, for the questions that people ask at night.

It costs nothing until an attempt fails. MariaDB has no partial index, and a whole one would cost every task
three writes: there the question reads what was received in the time that is asked for.
"""

from __future__ import annotations

import sqlalchemy as sa

from crisper.store.migrations import dialect

revision = "0007"
down_revision = "0006"

_FAILED = sa.text("state IN ('failed', 'lost', 'rejected', 'revoked')")


def upgrade() -> None:
    if not dialect.on_mariadb():
        dialect.create_index("crisper_attempt_failed", "crisper_attempt", ["received_at"], where=_FAILED)
