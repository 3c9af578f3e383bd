"""Where a run of the tests may work: a database, a Redis or a virtual host that no other run has.

Each yields a URL, or raises `Unavailable` with a sentence that says what was looked for and what to set.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import redis
from sqlalchemy import NullPool, create_engine, make_url, text

from tests.servers import (
    PrivateMariaDB,
    PrivatePostgres,
    PrivateRabbitMQ,
    PrivateRedis,
    Unavailable,
    amqp_answers,
)

USUAL_POSTGRES = "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"
USUAL_MARIADB = "mysql+pymysql://root@127.0.0.1:3306/test"
USUAL_REDIS = "redis://127.0.0.1:6379"
USUAL_RABBITMQ = "amqp://guest:guest@127.0.0.1:5672//"


Ctl = Callable[..., None]
"""Runs `rabbitmqctl` with these arguments."""


def unique_name() -> str:
    return f"crisper_test_{os.getpid()}_{uuid4().hex[:8]}"


# PostgreSQL


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of a server's maintenance database, by which databases are made."""
    try:
        server = PrivatePostgres()
    except Unavailable as none_of_our_own:
        url = os.environ.get("CRISPER_TEST_POSTGRES_URL", USUAL_POSTGRES)
        try:
            _run_sql(url, "SELECT 1")
        except Exception as error:
            raise _unavailable(none_of_our_own, url, "CRISPER_TEST_POSTGRES_URL", error) from None
        yield url
    else:
        with server:
            yield server.url


@contextmanager
def postgres_database(server_url: str) -> Iterator[str]:
    """A new, empty database on that server, dropped afterwards whoever is still connected."""
    name = unique_name()
    _run_sql(server_url, f'CREATE DATABASE "{name}" TEMPLATE template0')
    try:
        yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
    finally:
        _run_sql(server_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _run_sql(url: str, statement: str) -> None:
    arguments = {"connect_timeout": 10}
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool, connect_args=arguments)
    with engine.connect() as connection:
        connection.execute(text(statement))


# MariaDB


@contextmanager
def mariadb_server() -> Iterator[str]:
    """The URL of a server that lets us make databases."""
    try:
        server = PrivateMariaDB()
    except Unavailable as none_of_our_own:
        url = os.environ.get("CRISPER_TEST_MARIADB_URL", USUAL_MARIADB)
        try:
            _run_sql(url, "SELECT 1")
        except Exception as error:
            raise _unavailable(none_of_our_own, url, "CRISPER_TEST_MARIADB_URL", error) from None
        yield url
    else:
        with server:
            yield server.url


@contextmanager
def mariadb_database(server_url: str) -> Iterator[str]:
    """A new, empty database on that server, dropped afterwards."""
    name = unique_name()
    _run_sql(server_url, f"CREATE DATABASE {name}")
    try:
        url = make_url(server_url).set(drivername="mariadb", database=name)
        yield url.render_as_string(hide_password=False)
    finally:
        _run_sql(server_url, f"DROP DATABASE IF EXISTS {name}")


# Redis


@contextmanager
def redis_server() -> Iterator[str]:
    try:
        server = PrivateRedis()
    except Unavailable as none_of_our_own:
        url = os.environ.get("CRISPER_TEST_REDIS_URL", USUAL_REDIS)
        try:
            redis.Redis.from_url(url, socket_timeout=5).ping()
        except Exception as error:
            raise _unavailable(none_of_our_own, url, "CRISPER_TEST_REDIS_URL", error) from None
        with _a_database_of_our_own(url) as own:
            yield own
    else:
        with server:
            yield server.url


@contextmanager
def _a_database_of_our_own(url: str) -> Iterator[str]:
    """One of a shared server's numbered databases, taken by a key in its database 0, emptied at the end."""
    shared = redis.Redis.from_url(url, db=0)
    for number in range(15, 0, -1):
        taken = f"crisper-test:database:{number}"
        own = redis.Redis.from_url(_with_path(url, str(number)), db=number)
        if own.dbsize() == 0 and shared.set(taken, os.getpid(), nx=True, ex=6 * 3600):
            try:
                yield _with_path(url, str(number))
            finally:
                own.flushdb()
                shared.delete(taken)
            return
    raise Unavailable(f"every database of the Redis at {_shown(url)} is in use; install redis-server")


# RabbitMQ


@contextmanager
def rabbitmq_server() -> Iterator[Broker]:
    """A running server that lets us make virtual hosts, else a node of our own, else a server as it is."""
    url = os.environ.get("CRISPER_TEST_RABBITMQ_URL", USUAL_RABBITMQ)
    refusal = _refusal(url)
    if refusal is None and (ctl := _ctl_of(url)):
        yield Broker(url, ctl)
        return
    try:
        node = PrivateRabbitMQ()
    except Unavailable as none_of_our_own:
        if refusal is not None:
            raise _unavailable(none_of_our_own, url, "CRISPER_TEST_RABBITMQ_URL", refusal) from None
        yield Broker(url, None)
    else:
        with node:
            yield Broker(node.url, node.ctl)


class Broker:
    """A RabbitMQ server, and how to command it; without that, its one virtual host serves everybody."""

    def __init__(self, url: str, ctl: Ctl | None) -> None:
        self.url = url
        self.ctl = ctl

    @contextmanager
    def vhost(self) -> Iterator[str]:
        if self.ctl is None:
            yield self.url
            return
        name, user = unique_name(), urlsplit(self.url).username or "guest"
        self.ctl("add_vhost", name)
        try:
            self.ctl("set_permissions", "-p", name, user, ".*", ".*", ".*")
            yield _with_path(self.url, quote(name, safe=""))
        finally:
            self.ctl("delete_vhost", name)


def _refusal(url: str) -> Exception | None:
    try:
        amqp_answers(url)
    except Exception as error:
        return error
    return None


def _ctl_of(url: str) -> Ctl | None:
    """The command line of the server at this URL, if it is this machine's and lets us command it."""
    program = shutil.which("rabbitmqctl")
    if program is None or urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"):
        return None

    def ctl(*arguments: str) -> None:
        subprocess.run([program, "-q", *arguments], check=True, capture_output=True, timeout=60)

    name = unique_name()
    with contextlib.suppress(subprocess.SubprocessError):
        ctl("add_vhost", name)
        try:
            # Another node of this machine may be the one that answered the command.
            ctl("set_permissions", "-p", name, urlsplit(url).username or "guest", ".*", ".*", ".*")
            if _refusal(_with_path(url, name)) is None:
                return ctl
        finally:
            ctl("delete_vhost", name)
    return None


# What all of them say.


def _unavailable(own: Unavailable, url: str, variable: str, error: Exception) -> Unavailable:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return Unavailable(f"{own}, no server at {_shown(url)} ({reason[:150]}), set {variable}")


def _shown(url: str) -> str:
    """The URL without its password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def _with_path(url: str, path: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{path}"))
