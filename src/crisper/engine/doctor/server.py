"""What the registry's server tells of itself."""

from __future__ import annotations

from sqlalchemy import Connection, text

from crisper.engine.doctor.facts import Connections

_OURS = 1  # the connection by which this is asked


def version(connection: Connection, dialect: str) -> tuple[int, ...]:
    if dialect == "postgresql":
        return (int(connection.execute(text("SHOW server_version_num")).scalar_one()) // 10_000,)
    told = "SELECT VERSION()" if dialect == "mysql" else "SELECT sqlite_version()"
    words = str(connection.execute(text(told)).scalar_one()).partition("-")[0]
    return tuple(int(part) for part in words.split(".") if part.isdigit())[:2]


def connections(connection: Connection, dialect: str, workers: int) -> Connections | None:
    if dialect == "postgresql":
        most, used, ours = connection.execute(text(_POSTGRES_CONNECTIONS)).one()
        return Connections(int(most), int(used) - int(ours))
    if dialect == "mysql":
        most, used = (int(connection.execute(text(asked)).one()[1]) for asked in _MARIADB_CONNECTIONS)
        return Connections(most, max(0, used - 2 * workers - _OURS))
    return None


#: What it keeps for superusers is not for us; PostgreSQL 16 keeps some for others as well.
_POSTGRES_CONNECTIONS = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
       - coalesce(current_setting('reserved_connections', true), '0')::int,
       count(*), count(*) FILTER (WHERE application_name LIKE 'crisper%')
  FROM pg_stat_activity WHERE datname IS NOT NULL"""

#: Either name and value.
_MARIADB_CONNECTIONS = (
    "SHOW GLOBAL VARIABLES WHERE Variable_name = 'max_connections'",
    "SHOW GLOBAL STATUS WHERE Variable_name = 'Threads_connected'",
)
