"""An index of the recoveries that are done, by when: few rows tell what a day has lost and brought back.

It costs a recovery one entry at its end, and a task that is never lost nothing.
"""

from __future__ import annotations

import sqlalchemy as sa

from crisper.store.migrations import dialect

revision = "0009"
down_revision = "0008"

_DONE = sa.text("state = 'done'")


def upgrade() -> None:
    dialect.create_index("crisper_recovery_done", "crisper_recovery", ["done_at"], where=_DONE)
