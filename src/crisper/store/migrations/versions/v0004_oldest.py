"""Who may work here: the oldest revision whose Crisper understands everything that a newer one writes.

A later revision that an older Crisper would misread, or break, moves it up to itself; one that only adds
leaves it.
"""

from __future__ import annotations

from alembic import op

from crisper.store.migrations import dialect

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    insert = "INSERT IGNORE" if dialect.on_mariadb() else "INSERT"
    op.execute(f"{insert} INTO crisper_registry VALUES ('oldest', '0004')")
