"""What revisions say otherwise to MariaDB: types, table options, indexes that are partial elsewhere.

Only ever added to: revisions that are frozen stand on it. MariaDB commits each statement that changes
tables, so a revision that was cut short is begun again: what it made already is left as it is.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

#: `core.text.key`: MariaDB indexes only text of a limited length; its plain TEXT ends at 64 KiB.
KEY = sa.Text().with_variant(mysql.VARCHAR(760), "mysql")
OWN_ID = sa.Text().with_variant(mysql.VARCHAR(190), "mysql")
TEXT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql")
BYTES = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql")
PREFIX = 190


def on_mariadb() -> bool:
    return op.get_context().dialect.name == "mysql"


def create_table(name: str, *columns: Any, **options: Any) -> None:
    if on_mariadb():
        options |= {
            "mysql_engine": "InnoDB",
            "mysql_row_format": "DYNAMIC",
            "mysql_charset": "utf8mb4",
            "mysql_collate": _collation(),
            "if_not_exists": True,
        }
    op.create_table(name, *columns, **options)


def _collation() -> str:
    """Ids are told apart by every byte, trailing spaces too. MariaDB and MySQL name that differently."""
    context = op.get_context()
    mariadb = context.as_sql or getattr(context.dialect, "is_mariadb", False)
    return "utf8mb4_nopad_bin" if mariadb else "utf8mb4_0900_bin"


def create_index(
    name: str,
    table: str,
    columns: list[str],
    *,
    where: sa.TextClause | None = None,
    mariadb: list[str] | None = None,
    unique: bool = False,
) -> None:
    """`mariadb`: the columns there, where no index is partial."""
    if on_mariadb():
        prefixes = {"scope": PREFIX} if "scope" in columns else None
        op.create_index(
            name, table, mariadb or columns, unique=unique, if_not_exists=_known(), mysql_length=prefixes
        )
    elif where is None:
        op.create_index(name, table, columns, unique=unique)
    else:
        op.create_index(name, table, columns, unique=unique, postgresql_where=where, sqlite_where=where)


def _known() -> bool | None:
    """Whether `CREATE INDEX IF NOT EXISTS` is known: to MariaDB, and not to MySQL."""
    return _collation() == "utf8mb4_nopad_bin" or None


def add_column(table: str, column: sa.Column[Any]) -> None:
    """One that may be null: whoever does not know it goes on writing."""
    if not on_mariadb():
        op.add_column(table, column)
    elif _known():
        kind = column.type.compile(op.get_context().dialect)
        op.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column.name} {kind}")
    elif column.name not in {one["name"] for one in sa.inspect(op.get_bind()).get_columns(table)}:
        op.add_column(table, column)  # MySQL has no such words
