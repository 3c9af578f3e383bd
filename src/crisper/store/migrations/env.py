"""What Alembic runs: on the connection it is given, or as a script if it is given a dialect alone.

The connection is inside a transaction that holds the lock against other migrations.
"""

from __future__ import annotations

from alembic import context

from crisper.store.schema import metadata
from crisper.store.version import TABLE

connection = context.config.attributes.get("connection")
if connection is None:
    context.configure(
        dialect_name=context.config.attributes["dialect"],
        target_metadata=metadata,
        version_table=TABLE,
        literal_binds=True,
        transactional_ddl=True,
    )
else:
    context.configure(
        connection=connection, target_metadata=metadata, version_table=TABLE, transactional_ddl=True
    )
with context.begin_transaction():
    context.run_migrations()
