"""Create and upgrade the registry's schema, by Alembic, safely against others doing the same.

Not for the recorder: what it needs is in `crisper.store.version`.
"""

from __future__ import annotations

import fcntl
import io
import os
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

from crisper.errors import RegistryUnreachable, RegistryUnusable, SchemaMissing, SchemaOutdated
from crisper.store import version
from crisper.store.open import driver_url, is_mariadb, is_sqlite, open_store, redacted, sqlite_path
from crisper.store.sqlite import check_library, trouble

#: The key of PostgreSQL's advisory lock: any number, as long as every Crisper takes the same.
LOCK_KEY = 0x43524953504552
CONNECT_SECONDS = 10
#: Seconds that MariaDB's advisory lock is waited for, and that one statement may take there.
PATIENCE_SECONDS = 600


def ensure(url: str) -> None:
    """What a worker does at start: an embedded registry is made ready, a server's is only checked.

    Raises what `check` raises; on SQLite never `SchemaMissing` and `SchemaOutdated`.
    """
    try:
        check(url)
    except (SchemaMissing, SchemaOutdated):
        if not is_sqlite(url):
            raise
        upgrade(url)


def check(url: str) -> None:
    """Return if the registry has this Crisper's schema.

    Raises `SchemaMissing`, `SchemaOutdated` or `SchemaTooNew`, each saying what to run,
    and `RegistryUnreachable`.
    """
    if is_sqlite(url) and not sqlite_path(url).exists():
        version.compare(None, None, where=redacted(url))
    with closing(open_store(url)) as store:
        version.check_light(store)


def upgrade(url: str) -> None:
    """Create the schema, or bring it up to date; what is up to date stays as it is.

    All or nothing; on MariaDB, which commits after each statement, what was cut short is finished by the
    next upgrade. Any number of processes may do it at once: one does it, the others wait.
    Raises `SchemaTooNew` and `RegistryUnreachable`.
    """
    with _locked(url) as connection:
        found = MigrationContext.configure(
            connection, opts={"version_table": version.TABLE}
        ).get_current_revision()
        if found is not None and found >= version.HEAD_REVISION:
            oldest = connection.execute(sa.text(version.OLDEST)).scalar()
            return version.compare(found, oldest, where=redacted(url))
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def sql(url: str, since: str | None = None) -> str:
    """The statements of `upgrade` as a script for whoever may run them, from nothing or since a revision.

    Nothing is connected to.
    """
    script = io.StringIO()
    config = _config(output_buffer=script)
    config.attributes["dialect"] = (
        "sqlite" if is_sqlite(url) else "mysql" if is_mariadb(url) else "postgresql"
    )
    command.upgrade(config, f"{since}:head" if since else "head", sql=True)
    return script.getvalue()


def _config(**options: Any) -> Config:
    config = Config(**options)
    config.set_main_option("script_location", "crisper.store:migrations")
    return config


def _locked(url: str) -> AbstractContextManager[sa.Connection]:
    if is_sqlite(url):
        return _locked_sqlite(url)
    return _locked_mariadb(url) if is_mariadb(url) else _locked_server(url)


@contextmanager
def _locked_mariadb(url: str) -> Iterator[sa.Connection]:
    """A connection that holds the registry's advisory lock until it is closed."""
    open_store(url).close()  # says in a sentence if the URL or the driver will not do
    from crisper.store.mariadb_connect import connect

    def connection_of_its_own() -> Any:
        return connect(url, answer_seconds=PATIENCE_SECONDS + 10, statement_seconds=0)

    engine = sa.create_engine("mysql+pymysql://", creator=connection_of_its_own, poolclass=sa.NullPool)
    lock = sa.text("SELECT GET_LOCK(CONCAT('crisper:', SHA1(DATABASE())), :seconds)")
    try:
        with engine.connect() as connection:
            if connection.execute(lock, {"seconds": PATIENCE_SECONDS}).scalar() != 1:
                raise RegistryUnreachable(f"{redacted(url)} is being upgraded by another for a long time")
            connection.rollback()
            with connection.begin():
                yield connection
    except sa.exc.OperationalError as exc:
        raise RegistryUnreachable(f"{redacted(url)} does not answer: {exc.orig}") from exc


@contextmanager
def _locked_server(url: str) -> Iterator[sa.Connection]:
    """A transaction that holds the registry's advisory lock until it ends."""
    open_store(url).close()  # says in a sentence if the URL or the driver will not do
    from crisper.store.postgres import connect

    def connection_of_its_own() -> Any:
        made = connect(driver_url(url), application_name="crisper migrate", connect_timeout=CONNECT_SECONDS)
        made.autocommit = False
        return made

    engine = sa.create_engine("postgresql+psycopg://", creator=connection_of_its_own, poolclass=sa.NullPool)
    try:
        with engine.begin() as connection:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
            yield connection
    except sa.exc.OperationalError as exc:
        raise RegistryUnreachable(f"{redacted(url)} does not answer: {exc.orig}") from exc


@contextmanager
def _locked_sqlite(url: str) -> Iterator[sa.Connection]:
    """A transaction on the file, made if need be, under an exclusive lock beside it.

    SQLite's own lock would not do: turning a new file to write-ahead logging
    fails at once where two processes do it.
    """
    path = sqlite_path(url)
    check_library(path)
    try:
        _make_private(path)
        with open(os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with _sqlite_engine(path).begin() as connection:
                yield connection
    except OSError as exc:
        raise RegistryUnusable(
            f"the registry {path} cannot be made: {exc.strerror or exc}. Make its folder writable for the"
            " user that runs this, or set crisper_registry_url to another file"
        ) from exc
    except sa.exc.DatabaseError as exc:
        if not isinstance(exc.orig, sqlite3.Error):
            raise
        raise trouble(path, exc.orig) from exc


def _make_private(path: Path) -> None:
    """The folders and the file, for their owner only; what exists keeps its mode."""
    for folder in reversed(path.absolute().parents):
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _sqlite_engine(path: Path) -> sa.Engine:
    from crisper.store.sqlite import connect

    engine = sa.create_engine("sqlite://", creator=lambda: connect(path), poolclass=sa.NullPool)

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # The driver would begin by itself only before DML, so that DDL were not undone with the rest.
        connection.exec_driver_sql("PRAGMA busy_timeout = 10000")
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
