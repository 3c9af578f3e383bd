"""From a `mysql://` or `mariadb://` URL to a connection of PyMySQL's, set up the way Crisper relies on."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import pymysql
from pymysql.constants import CLIENT
from pymysql.err import MySQLError

from crisper.errors import RegistryUnreachable, RegistryUnusable, SettingsError
from crisper.store.open import redacted

#: Seconds to reach the server, and for one answer of it: a stopped server answers nothing, and
#: none of its own timeouts fires.
CONNECT_SECONDS = 3
ANSWER_SECONDS = 6
#: Seconds on the server: for one statement, and for a lock, whose refusal is tried again.
STATEMENT_SECONDS = 4
LOCK_SECONDS = 1

READ_COMMITTED = "ISOLATION LEVEL READ COMMITTED"
#: For questions: one state of the registry, however many statements ask.
ONE_SNAPSHOT = "ISOLATION LEVEL REPEATABLE READ, READ ONLY"

OLDEST = (10, 6)  # the first with SKIP LOCKED

#: What the URL's query may say, for TLS and for the socket, by SQLAlchemy's names where it has one.
_OPTIONS = (
    "charset", "unix_socket",
    "ssl", "ssl_ca", "ssl_cert", "ssl_key", "ssl_key_password", "ssl_check_hostname",
)  # fmt: skip
_NO = ("0", "false", "no", "off")


class Address(NamedTuple):
    """Where a registry is, as PyMySQL wants to know it."""

    host: str
    port: int
    user: str
    password: str
    database: str
    options: dict[str, str]


class Connection(pymysql.connections.Connection):  # type: ignore[misc]
    """With a descriptor, by which another thread may shut down a call that hangs."""

    def fileno(self) -> int:
        if self._sock is None:
            raise OSError("not connected")
        return int(self._sock.fileno())

    def shut_down(self) -> None:
        """From any thread: whoever waits for this connection fails now."""
        with (
            contextlib.suppress(OSError, AttributeError),  # it was closed meanwhile
            socket.socket(fileno=os.dup(self.fileno())) as peer,
        ):
            peer.shutdown(socket.SHUT_RDWR)

    def gone(self) -> None:
        """Close it, whatever state it is in."""
        with contextlib.suppress(MySQLError, OSError):
            self.close()


def address_of(url: str) -> Address:
    """Raises `SettingsError`, without the password, for what cannot be read."""
    try:
        parts = urlsplit(url)
        name = unquote(parts.path[1:])
        readable = parts.netloc.count("@") <= 1 and not parts.fragment and bool(name) and "/" not in name
        address = Address(
            parts.hostname or "127.0.0.1", parts.port or 3306, unquote(parts.username or ""),
            unquote(parts.password or ""), name, dict(parse_qsl(parts.query, keep_blank_values=True)),
        )  # fmt: skip
    except ValueError:
        readable = False
    if not readable:
        # Without the cause: the parser's own words may contain a part of the password.
        raise SettingsError(
            f"crisper_registry_url {redacted(url)!r} cannot be read: write mariadb://user@host/database; in"
            " a password, characters such as / # ? @ [ ] must be percent-encoded"
        ) from None
    return _checked(url, address)


def _checked(url: str, address: Address) -> Address:
    unknown = sorted(set(address.options) - set(_OPTIONS))
    if unknown:
        raise SettingsError(
            f"crisper_registry_url {redacted(url)!r}: unknown option {unknown[0]!r};"
            f" there are {', '.join(_OPTIONS)}"
        )
    if address.options.get("charset", "utf8mb4") != "utf8mb4":
        raise SettingsError(f"crisper_registry_url {redacted(url)!r}: the charset must be utf8mb4")
    return address


def prepare(url: str, *, answer_seconds: float = ANSWER_SECONDS) -> Connection:
    """A connection that is not open yet, so that another thread can end its opening too."""
    address = address_of(url)
    return Connection(
        host=address.host,
        port=address.port,
        user=address.user or None,
        password=address.password.encode(),
        database=address.database,
        unix_socket=address.options.get("unix_socket"),
        charset="utf8mb4",
        autocommit=False,
        connect_timeout=CONNECT_SECONDS,
        read_timeout=answer_seconds,
        write_timeout=answer_seconds,
        # Rows changed are rows matched; and many statements go in one round trip.
        client_flag=CLIENT.FOUND_ROWS | CLIENT.MULTI_STATEMENTS,
        defer_connect=True,
        **_tls(url, address.options),
    )


def _tls(url: str, options: dict[str, str]) -> dict[str, Any]:
    """Nothing said: TLS if the server offers it. `ssl=false`: none. Anything else: TLS, and the server's
    certificate is verified, by the machine's authorities or those of `ssl_ca`."""
    named = {name: value for name, value in options.items() if name.startswith("ssl") and value}
    if not named:
        return {}
    if named.get("ssl", "").lower() in _NO:
        return {"ssl_disabled": True}
    try:
        context = ssl.create_default_context(cafile=named.get("ssl_ca"))
        # Certificates that a server made for itself do not pass this, whoever vouches for them.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.check_hostname = named.get("ssl_check_hostname", "").lower() not in _NO
        if "ssl_cert" in named:
            password = named.get("ssl_key_password", "")
            context.load_cert_chain(named["ssl_cert"], named.get("ssl_key"), password)
    except OSError as exc:
        raise SettingsError(f"crisper_registry_url {redacted(url)!r}: its TLS files: {exc}") from exc
    return {"ssl": context}


def establish(
    url: str,
    connection: Connection,
    *,
    statement_seconds: int = STATEMENT_SECONDS,
    isolation: str = READ_COMMITTED,
) -> int:
    """Open it with a session that Crisper can rely on, whatever the server's defaults; the bytes that
    one packet may have.

    Raises `RegistryUnreachable`, and `RegistryUnusable` for a server that is too old.
    """
    try:
        connection.connect()
        mariadb = _checked_version(url, str(connection.server_version))
        with connection.cursor() as cursor:
            cursor.execute("; ".join(_session(mariadb, statement_seconds, isolation)))
            while cursor.nextset():
                pass
            [(packet,)] = cursor.fetchall()
        connection.rollback()
    except (MySQLError, OSError) as exc:
        connection.gone()
        raise RegistryUnreachable(f"the registry {redacted(url)} cannot be reached: {exc}") from exc
    return int(packet)


def _session(mariadb: bool, statement_seconds: int, isolation: str) -> list[str]:
    settings = {
        "sql_mode": "'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'",
        "time_zone": "'+00:00'",  # else an hour of the year comes twice
        "innodb_lock_wait_timeout": str(LOCK_SECONDS),
    }
    if mariadb:
        settings["max_statement_time"] = str(statement_seconds)
        # A client that was stopped holds its locks no longer.
        settings["idle_transaction_timeout"] = str(statement_seconds)
    return [
        "SET " + ", ".join(f"{name} = {value}" for name, value in settings.items()),
        f"SET SESSION TRANSACTION {isolation}",
        "SELECT @@max_allowed_packet",
    ]


def _checked_version(url: str, version: str) -> bool:
    """Whether the server is MariaDB, and not MySQL."""
    if "mariadb" not in version.lower():
        return False
    found = re.search(r"(\d+)\.(\d+)(?:\.\d+)?-mariadb", version.lower())
    if found and (int(found[1]), int(found[2])) < OLDEST:
        raise RegistryUnusable(
            f"the registry {redacted(url)} is on MariaDB {found[1]}.{found[2]}; Crisper needs 10.6 or newer"
        )
    return True


def connect(
    url: str, *, answer_seconds: float, statement_seconds: int, isolation: str = READ_COMMITTED
) -> Connection:
    """An open connection, for SQLAlchemy to work on."""
    connection = prepare(url, answer_seconds=answer_seconds)
    establish(url, connection, statement_seconds=statement_seconds, isolation=isolation)
    return connection
