"""The registry on PostgreSQL, through psycopg 3."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from crisper.core.model import Fence, Record
from crisper.errors import RegistryMoved, RegistryUnreachable, SchemaMissing, SettingsError
from crisper.store.at_once import NOTHING, STATEMENT, Written, at_once
from crisper.store.database import Conflict, Place, Row, Within
from crisper.store.open import redacted
from crisper.store.sql import SqlStore

#: Seconds to reach the server; and, on the server, for one statement or lock.
#: The client's own watchdog is what one may rely on: a stopped server, or one
#: whose clock steps back, does not fire its timeouts.
CONNECT_SECONDS = 3
SERVER_MS = 4000
#: All that a recorder asks is a few rows by an index. A prepared statement keeps the plan that it was given
#: while the table was small; a hash join in it would read every open attempt once per batch, and a bitmap
#: every loss for the first few. For the same reason statements that look attempts up by their tasks say
#: `lower(state)`, which no partial index knows: such a plan would read that index from end to end.
PLANS = (
    "-c enable_seqscan=off -c enable_bitmapscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off"
)


class PostgresDatabase:
    share = " FOR SHARE"
    lock = " FOR UPDATE"
    skip = " FOR UPDATE SKIP LOCKED"
    largest = None
    combines = True

    def __init__(
        self,
        url: str,
        application_name: str,
        within: Within = contextlib.nullcontext,
        place: Place | None = None,
    ) -> None:
        self._url, self._within, self._place = url, within, place
        self._application_name = application_name
        self._at_once = STATEMENT.format(now=self.now(), share=self.share)
        self._connection: psycopg.Connection[Row] | None = None
        self.where = redacted(url)

    def now(self) -> str:
        return "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"

    @contextmanager
    def write(self) -> Iterator[None]:
        with self._called() as connection, connection.transaction():
            yield

    @contextmanager
    def single(self) -> Iterator[None]:
        with self._called():
            yield

    def at_once(self, fence: Fence, records: Sequence[Record]) -> Written:
        chosen = at_once(records)
        if not chosen:
            return NOTHING
        with self._called() as connection:
            row = connection.execute(self._at_once, chosen.params(fence)).fetchone()
        return NOTHING if row is None else chosen.written(row[1] or (), row[2] or ())

    @contextmanager
    def _called(self) -> Iterator[psycopg.Connection[Row]]:
        """The connection, under the deadline; what goes wrong there in our own words."""
        connection = self._connect()
        try:
            with self._within(self):
                yield connection
        except (errors.DeadlockDetected, errors.SerializationFailure) as exc:
            raise Conflict(str(exc)) from exc
        except errors.UndefinedTable as exc:
            raise SchemaMissing(f"{self.where} holds no Crisper registry: {exc}") from exc
        except (psycopg.OperationalError, psycopg.InternalError, psycopg.InterfaceError) as exc:
            # Internal: a standby that took over the address is read-only, for one.
            self.close()
            raise RegistryUnreachable(f"the registry does not answer: {exc}") from exc

    def _connect(self) -> psycopg.Connection[Row]:
        if self._connection is None or self._connection.closed:
            self._connection = connect(
                self._url,
                application_name=self._application_name,
                connect_timeout=CONNECT_SECONDS,
                options=f"-c statement_timeout={SERVER_MS} -c lock_timeout={SERVER_MS}"
                f" -c idle_in_transaction_session_timeout={SERVER_MS} {PLANS}",
            )
            self._reached(self._connection)
        return self._connection

    def _reached(self, connection: psycopg.Connection[Row]) -> None:
        if self._place is None:
            return
        try:
            with self._within(self):
                self._place.reached(*_place_of(connection))
        except psycopg.Error as exc:
            self.close()
            raise RegistryUnreachable(f"the registry does not answer: {exc}") from exc
        except RegistryMoved:
            self.close()
            raise

    def look_around(self) -> None:
        self._reached(self._connect())

    def _open(self) -> psycopg.Connection[Row]:
        """The transaction's own connection: a statement on another would be outside of its fence."""
        if self._connection is None:
            raise psycopg.InterfaceError("the connection was closed under its transaction")
        return self._connection

    def has_table(self, name: str) -> bool:
        return self.rows("SELECT to_regclass(?)", name)[0][0] is not None

    def rows(self, sql: str, *params: Any) -> list[Row]:
        return self._open().execute(_placed(sql), params).fetchall()

    def run(self, sql: str, *params: Any) -> int:
        return self._open().execute(_placed(sql), params).rowcount

    def each(self, sql: str, params: Sequence[Row]) -> list[int]:
        if not params:
            return []
        with self._open().cursor() as cursor:
            cursor.executemany(_placed(sql), params, returning=True)
            counts = [cursor.rowcount]
            while cursor.nextset():
                counts.append(cursor.rowcount)
        return counts

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def abort(self) -> None:
        """Shut the socket down under a call that hangs; libpq then fails at once."""
        connection = self._connection
        if connection is None:
            return
        with (
            contextlib.suppress(OSError, psycopg.Error),
            socket.socket(fileno=os.dup(connection.fileno())) as peer,
        ):
            peer.shutdown(socket.SHUT_RDWR)


#: The timeline is that of the log that is being written: the control file learns of a promotion later.
_PLACE = """
SELECT (SELECT system_identifier FROM pg_control_system())::text || '/'
       || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8),
       EXISTS (SELECT 1 FROM pg_stat_replication)"""


def _place_of(connection: psycopg.Connection[Row]) -> tuple[str, bool]:
    """The server's system identifier and timeline, and whether replicas follow it.

    Empty where it does not say: a service that keeps its own log, or a role that may not ask.
    """
    try:
        row = connection.execute(_PLACE).fetchone()
    except (errors.InsufficientPrivilege, errors.UndefinedFunction, errors.FeatureNotSupported):
        return "", False
    assert row is not None
    return str(row[0]), bool(row[1])


def connect(
    url: str, *, application_name: str, connect_timeout: int, options: str = ""
) -> psycopg.Connection[Row]:
    """A connection in autocommit mode; `options` are added to those of the URL (a search path, say)."""
    try:
        given = conninfo_to_dict(url)
        readable = url.partition("?")[0].count("@") <= 1
    except psycopg.ProgrammingError:
        readable = False
    if not readable:
        # Without the cause: libpq's own words may contain a part of the password.
        raise SettingsError(
            f"crisper_registry_url {redacted(url)!r} cannot be read; in a password, characters such as"
            " / # ? @ [ ] must be percent-encoded"
        )
    try:
        return psycopg.connect(
            url,
            autocommit=True,
            connect_timeout=connect_timeout,
            application_name=application_name,
            options=f"{given.get('options') or ''} {options}".strip(),
        )
    except psycopg.OperationalError as exc:
        raise RegistryUnreachable(f"the registry {redacted(url)} cannot be reached: {exc}") from exc


def _placed(sql: str) -> bytes:
    """Statements are written with `?`; psycopg wants `%s`."""
    placed = _PLACED.get(sql)
    if placed is None:
        placed = _PLACED[sql] = sql.replace("?", "%s").encode()
    return placed


_PLACED: dict[str, bytes] = {}


def open_postgres(
    url: str,
    application_name: str = "crisper",
    within: Within = contextlib.nullcontext,
    place: Place | None = None,
) -> SqlStore:
    return SqlStore(PostgresDatabase(url, application_name, within, place))
