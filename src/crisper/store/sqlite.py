"""The registry in one SQLite file: the embedded default, for one host."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from crisper.core.model import Fence, Record
from crisper.errors import RegistryUnreachable, RegistryUnusable
from crisper.store.at_once import NOTHING, Written
from crisper.store.database import Row
from crisper.store.sql import SqlStore

#: How long a writer waits for its turn. SQLite's own busy handler starves the
#: slowest of eight writers; a short one with jittered retries is fair (measured:
#: docs/performance.md).
TURN_SECONDS = 5.0
BUSY_SECONDS = 0.01
PAUSE_SECONDS = 0.0005, 0.004
#: The oldest library that knows RETURNING.
OLDEST = 3, 35
#: What a long snapshot made the WAL grow to is given back to the disk, down to where it is written anew.
WAL_BYTES = 4 * 1024 * 1024


class SqliteDatabase:
    share = lock = skip = ""
    combines = False
    largest = None

    def __init__(self, path: Path) -> None:
        self._path = path
        self.where = f"sqlite:///{path}"
        self._connection: sqlite3.Connection | None = None

    def now(self) -> str:
        # The file is used by one host, so the host's clock is the registry's.
        return str(int(time.time() * 1000))

    def single(self) -> AbstractContextManager[None]:
        return self.write()

    @contextmanager
    def write(self) -> Iterator[None]:
        connection = self._connect()
        self._begin(connection)
        try:
            yield
            connection.execute("COMMIT")
        except BaseException as exc:
            self._roll_back(connection)
            if isinstance(exc, sqlite3.OperationalError) or type(exc) is sqlite3.DatabaseError:
                raise trouble(self._path, exc) from exc
            raise

    def _begin(self, connection: sqlite3.Connection) -> None:
        """Take the write lock at once: a deferred one fails without waiting when it is upgraded."""
        give_up = time.monotonic() + TURN_SECONDS
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as exc:
                busy = exc.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
                if not busy or time.monotonic() > give_up:
                    raise trouble(self._path, exc) from exc
            time.sleep(random.uniform(*PAUSE_SECONDS))

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            connection.execute("ROLLBACK")

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connect(self._path)
        return self._connection

    def has_table(self, name: str) -> bool:
        return bool(self.rows("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", name))

    def at_once(self, fence: Fence, records: Sequence[Record]) -> Written:
        return NOTHING

    def look_around(self) -> None:
        """A local file has no replica."""

    def rows(self, sql: str, *params: Any) -> list[Row]:
        return self._connect().execute(sql, params).fetchall()

    def run(self, sql: str, *params: Any) -> int:
        return self._connect().execute(sql, params).rowcount

    def each(self, sql: str, params: Sequence[Row]) -> list[int]:
        execute = self._connect().execute
        return [execute(sql, row).rowcount for row in params]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def abort(self) -> None:
        """A local file has no peer that could hang; a busy one gives up by itself."""


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode: transactions are begun by hand.

    The file must exist: only `store.migrate` makes one, for its owner alone.
    Raises `RegistryUnreachable`, and `RegistryUnusable` for a library that is too old.
    """
    check_library(path)
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA busy_timeout = 2000")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
    except sqlite3.Error as exc:
        raise trouble(path, exc) from exc
    return connection


def check_library(path: Path) -> None:
    """Raises `RegistryUnusable` where Python's SQLite is too old."""
    found = sqlite3.sqlite_version_info[:2]
    if found < OLDEST:
        raise RegistryUnusable(
            f"the registry {path} cannot be used: this Python has SQLite {_words(found)}, Crisper needs"
            f" {_words(OLDEST)} or newer. Use a Python that has a newer one, or set crisper_registry_url to"
            " postgresql://… or mariadb://…"
        )


def _words(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


_WAITING_MENDS_NOT = {
    sqlite3.SQLITE_NOTADB: "it is no SQLite database. Move it away,"
    " or set crisper_registry_url to another file",
    sqlite3.SQLITE_CORRUPT: "it is damaged. Stop the workers, and move it away or put a backup in its place",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened. Look at its folder and its permissions,"
    " or set crisper_registry_url to another file",
    sqlite3.SQLITE_READONLY: "it is read-only. Make it and its folder writable for the user that runs this",
    sqlite3.SQLITE_PERM: "it is not ours. Make it and its folder writable for the user that runs this",
}


def trouble(path: Path, exc: sqlite3.Error) -> RegistryUnreachable:
    """SQLite's error as ours, with what to do where waiting would not mend it."""
    code = getattr(exc, "sqlite_errorcode", None)
    advice = None if code is None else _WAITING_MENDS_NOT.get(code & 0xFF)
    if advice is None:
        return RegistryUnreachable(f"the registry {path} does not answer: {exc}")
    return RegistryUnusable(f"the registry {path} cannot be used: {exc}: {advice}")


def open_sqlite(path: Path) -> SqlStore:
    return SqlStore(SqliteDatabase(path))
