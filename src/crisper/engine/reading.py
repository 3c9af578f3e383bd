"""Reading the registry through SQLAlchemy: one read-only snapshot for each question."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, NullPool, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from crisper.engine.kept import POOL, deadline, look_before_use
from crisper.errors import RegistryError, RegistryUnreachable, SettingsError
from crisper.store.open import is_mariadb, is_sqlite, open_store, redacted, sqlite_path
from crisper.store.version import OLDEST, TABLE, compare

#: Seconds to reach the server, and for one statement of a question. People's
#: questions may scan history, so they have longer than the recorder's writes;
#: past `HANGS` the socket is shut under a server that is stopped.
CONNECT_SECONDS = 5
STATEMENT_SECONDS = 8
HANGS_SECONDS = 12.0

_NOW = {
    "postgresql": "(extract(epoch FROM clock_timestamp()) * 1000)::bigint",
    "mysql": "CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)",
    # The file is used by one host, so the host's clock is the registry's.
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
}

#: A question reads a bounded number of rows. Beside millions its cost is estimated high all the same, and to
#: compile it would take longer than to answer it.
_POSTGRES = (
    f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'; SET LOCAL jit = off;"
    " SET LOCAL max_parallel_workers_per_gather = 0"
)

#: Steps of SQLite's machine, a millisecond or so, after which it looks at the clock.
_SQLITE_STEPS = 20_000

_QUERY_CANCELED = "57014"
_INTERRUPTED = "interrupted"  # SQLite's
_STATEMENT_TIMEOUT = 1969  # MariaDB's


class Reading:
    """One registry, read from any number of threads. Nothing can be written through it."""

    def __init__(self, url: str, *, application_name: str, hangs_after: float = HANGS_SECONDS) -> None:
        try:
            open_store(url).close()  # connects to nothing; says what is wrong with the URL
            self.where = redacted(url)
            self._engine = _engine(url, application_name)
        except (ValueError, SQLAlchemyError):
            raise SettingsError(
                "crisper_registry_url is not a URL: use postgresql://user@host/database,"
                " mariadb://user@host/database or sqlite:////path/registry.db"
            ) from None
        self._url, self._hangs_after = url, hangs_after
        self.schema: str | None = None  # its revision, once it was read
        self._open = threading.local()

    @property
    def dialect(self) -> str:
        return self._engine.dialect.name

    @property
    def database(self) -> str:
        """The name that people know it by."""
        return "mariadb" if getattr(self._engine.dialect, "is_mariadb", False) else self.dialect

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """One transaction that sees one state of the registry; in it, in one thread, it is this one again.

        Raises `RegistryUnreachable` when the database does not answer in time, and
        `SchemaMissing`, `SchemaOutdated` or `SchemaTooNew`, each saying what to run.
        """
        opened: Connection | None = getattr(self._open, "connection", None)
        if opened is not None:
            yield opened
            return
        if is_sqlite(self._url) and not sqlite_path(self._url).is_file():
            compare(None, None, where=self.where)
        try:
            with self._engine.connect() as connection, deadline(_driver(connection), self._hangs_after):
                if self.dialect == "postgresql":
                    connection.execute(text(_POSTGRES))
                self._check(connection)
                self._open.connection = connection
                yield connection
                connection.rollback()  # within its time: a connection that is kept is given back clean
        except DBAPIError as exc:
            raise self._said(exc) from exc
        finally:
            self._open.connection = self._open.now = None

    def now(self, connection: Connection) -> int:
        """Milliseconds of the registry's clock, as a snapshot first read it."""
        now: int | None = getattr(self._open, "now", None)
        if now is None:
            now = int(connection.execute(text(f"SELECT {_NOW[self.dialect]}")).scalar_one())
            self._open.now = now
        return now

    def close(self) -> None:
        self._engine.dispose()

    def _check(self, connection: Connection) -> None:
        if self.schema is not None:
            return
        found = oldest = None
        if inspect(connection).has_table(TABLE):
            found = connection.execute(text(f"SELECT version_num FROM {TABLE}")).scalar()
            oldest = connection.execute(text(OLDEST)).scalar()
        compare(found, oldest, where=self.where)
        self.schema = found

    def _said(self, exc: DBAPIError) -> RegistryError:
        if _took_too_long(exc.orig):
            return RegistryError(
                f"the question took longer than {STATEMENT_SECONDS} s. Narrow it, for example with --state"
            )
        words = str(exc.orig).strip().splitlines() or [type(exc.orig).__name__]
        return RegistryUnreachable(
            f"the registry at {self.where} cannot be read: {words[0]}."
            " Check crisper_registry_url (or --registry), and that its server is up."
        )


def _took_too_long(exc: Any) -> bool:
    cut_short = exc.args[:1] in ((_STATEMENT_TIMEOUT,), (_INTERRUPTED,))
    return cut_short or getattr(exc, "sqlstate", None) == _QUERY_CANCELED


def _engine(url: str, application_name: str) -> Engine:
    if is_sqlite(url):
        return _sqlite(url)
    return _mariadb(url) if is_mariadb(url) else _postgres(url, application_name)


def _mariadb(url: str) -> Engine:
    from crisper.store.mariadb_connect import ONE_SNAPSHOT, connect

    def connection() -> Any:
        return connect(
            url,
            answer_seconds=HANGS_SECONDS,
            statement_seconds=STATEMENT_SECONDS,
            isolation=ONE_SNAPSHOT,
        )

    return look_before_use(create_engine("mysql+pymysql://", creator=connection, **POOL))


def _sqlite(url: str) -> Engine:
    """Opened for writing, because a WAL file's readers write its index; never created, never written."""
    path = sqlite_path(url)

    def connect() -> sqlite3.Connection:
        # Autocommit, so that the transaction is begun by hand and spans every statement.
        connection = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?mode=rw",
            uri=True,
            isolation_level=None,
            timeout=STATEMENT_SECONDS,
        )
        connection.execute("PRAGMA query_only = ON")
        ends = time.monotonic() + STATEMENT_SECONDS  # a connection is for one question
        connection.set_progress_handler(lambda: time.monotonic() > ends, _SQLITE_STEPS)
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _postgres(url: str, application_name: str) -> Engine:
    # No prepared statements: the plan of one is not made for what is asked.
    engine = create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        **POOL,
        connect_args={
            "connect_timeout": CONNECT_SECONDS,
            "application_name": application_name,
            "prepare_threshold": None,
        },
        execution_options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
    )
    return look_before_use(engine)


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection
