"""The registry on MariaDB (or MySQL), through PyMySQL.

The statements are PostgreSQL's and SQLite's; what this dialect says otherwise is translated here.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

from pymysql.constants import ER
from pymysql.err import IntegrityError, InterfaceError, InternalError, MySQLError, OperationalError

from crisper.core.model import Fence, Record
from crisper.errors import RegistryMoved, RegistryUnreachable, SchemaMissing
from crisper.store.at_once import NOTHING, Written
from crisper.store.database import Conflict, Place, Row, Within
from crisper.store.mariadb_connect import Connection, address_of, establish, prepare
from crisper.store.open import redacted
from crisper.store.rows import IS_OPEN
from crisper.store.sql import SqlStore

#: May simply be tried again: a deadlock's victim, a lock that another holds, a row that moved.
_CONFLICTS = (ER.LOCK_DEADLOCK, ER.LOCK_WAIT_TIMEOUT, ER.CHECKREAD)
#: Of a packet, for what stands around the values of a statement.
_ROOM = 64 * 1024


class MariadbDatabase:
    share = " LOCK IN SHARE MODE"
    lock = " FOR UPDATE"
    skip = " FOR UPDATE SKIP LOCKED"
    combines = False

    def __init__(self, url: str, within: Within = contextlib.nullcontext, place: Place | None = None) -> None:
        address_of(url)  # says in a sentence if it will not do
        self._url, self._within, self._place = url, within, place
        self._connection: Connection | None = None
        self._packet = 16 * 1024 * 1024
        self.where = redacted(url)

    @property
    def largest(self) -> int:
        """Values travel as hexadecimal digits."""
        return (self._packet - _ROOM) // 2

    def now(self) -> str:
        # Unlike NOW(), not the time at which a statement that waited for a lock began.
        return "CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)"

    def single(self) -> AbstractContextManager[None]:
        return self.write()

    @contextmanager
    def write(self) -> Iterator[None]:
        try:
            with self._within(self):
                connection = self._connect()
                try:
                    yield
                    connection.commit()
                except BaseException as exc:
                    self._roll_back(connection, exc)
                    raise
        except MySQLError as exc:
            raise self._said(exc) from exc

    def _roll_back(self, connection: Connection, exc: BaseException) -> None:
        """What is no error of the database may have come in the middle of an answer: nothing after it
        could be told from its rest."""
        if isinstance(exc, Exception):
            with contextlib.suppress(MySQLError, OSError):
                connection.rollback()
                return
        self.close()

    def _said(self, exc: Exception) -> Exception:
        code = exc.args[0] if exc.args else None
        if code in _CONFLICTS:
            return Conflict(str(exc))
        if code == ER.NO_SUCH_TABLE:
            return SchemaMissing(f"{self.where} holds no Crisper registry: {exc}")
        if isinstance(exc, (OperationalError, InternalError, InterfaceError)):
            self.close()
            return RegistryUnreachable(f"the registry does not answer: {exc}")
        return exc

    def _connect(self) -> Connection:
        if self._connection is None or not self._connection.open:
            self._connection = prepare(self._url)
            self._packet = establish(self._url, self._connection)
            self._reached(self._connection)
        return self._connection

    def _reached(self, connection: Connection) -> None:
        if self._place is None:
            return
        try:
            self._place.reached(*_where(connection))
        except RegistryMoved:
            self.close()
            raise

    def at_once(self, fence: Fence, records: Sequence[Record]) -> Written:
        return NOTHING

    def look_around(self) -> None:
        try:
            with self._within(self):
                self._reached(self._connect())
        except MySQLError as exc:
            self.close()
            raise RegistryUnreachable(f"the registry does not answer: {exc}") from exc

    def _open(self) -> Connection:
        """The transaction's own connection: a statement on another would be outside of its fence."""
        if self._connection is None:
            raise InterfaceError("the connection was closed under its transaction")
        return self._connection

    def has_table(self, name: str) -> bool:
        tables = "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?"
        return bool(self.rows(tables, name))

    def rows(self, sql: str, *params: Any) -> list[Row]:
        with self._open().cursor() as cursor:
            cursor.execute(_translated(sql).text, params)
            return list(cursor.fetchall())

    def run(self, sql: str, *params: Any) -> int:
        return self.each(sql, [params])[0]

    def each(self, sql: str, params: Sequence[Row]) -> list[int]:
        """Many to a packet. The server leaves out what follows a statement that failed."""
        statement = _translated(sql)
        counts: list[int] = []
        with self._open().cursor() as cursor:
            said = [cursor.mogrify(statement.text, row) for row in params]
            while len(counts) < len(said):
                packet = self._packed(said[len(counts) :])
                try:
                    cursor.execute("; ".join(packet))
                    counts.append(cursor.rowcount)
                    while cursor.nextset():
                        counts.append(cursor.rowcount)
                except IntegrityError as exc:
                    if not statement.may_exist or exc.args[0] != ER.DUP_ENTRY:
                        raise
                    counts.append(0)
        return counts

    def _packed(self, statements: list[str]) -> list[str]:
        """As many of them as go into one packet; one at least."""
        room, fit = self._packet - _ROOM, 0
        for statement in statements:
            room -= len(statement.encode()) + 2
            if fit and room < 0:
                break
            fit += 1
        return statements[:fit]

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.gone()

    def abort(self) -> None:
        connection = self._connection
        if connection is not None:
            connection.shut_down()


def _where(connection: Connection) -> tuple[str, bool]:
    """Which server it is, or which Galera cluster; and whether it writes a log that a replica may lack the
    end of. The members of a cluster have every commit that one of them acknowledged."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW STATUS LIKE 'wsrep_cluster_state_uuid'")
        cluster = "".join(str(uuid) for _, uuid in cursor.fetchall())
        if cluster.strip("0-"):
            return f"galera/{cluster}", False
        cursor.execute("SELECT CONCAT_WS('/', @@hostname, @@port, @@server_id, @@datadir), @@log_bin")
        [(place, replicated)] = cursor.fetchall()
    connection.rollback()
    return str(place), bool(replicated)


class Translated(NamedTuple):
    text: str
    may_exist: bool  # a row that exists already is left as it is, and counted as none


@functools.cache
def _translated(sql: str) -> Translated:
    """Statements are written with `?`; PyMySQL wants `%s`. A duplicate is told by its error, because
    INSERT IGNORE would also cut what does not fit; so a statement inserts one row at most. Open attempts
    of an incarnation have a column of their own, as PostgreSQL has an index: history is not looked at.
    """
    text, ignoring, _ = sql.partition("ON CONFLICT DO NOTHING")
    text = text.replace(f"incarnation = ? AND {IS_OPEN}", "open_by = ?")
    return Translated(text.replace("%", "%%").replace("?", "%s").strip(), bool(ignoring))


def open_mariadb(url: str, within: Within = contextlib.nullcontext, place: Place | None = None) -> SqlStore:
    return SqlStore(MariadbDatabase(url, within, place))
