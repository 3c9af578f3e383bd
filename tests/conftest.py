"""Real servers for the tests, as fixtures. See CONTRIBUTING.md for which there are."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from celery.result import AsyncResult

from crisper.store import migrate
from tests import places
from tests.left_out import needs, pytest_runtest_makereport, pytest_terminal_summary
from tests.servers import PrivateMariaDB, PrivatePostgres, PrivateRabbitMQ, PrivateRedis
from tests.underway import Underway

__all__ = ["pytest_runtest_makereport", "pytest_terminal_summary"]


def pytest_configure(config: pytest.Config) -> None:
    """SIGTERM ends a run as Ctrl-C does: it leaves no server and no folder, and says what was underway."""
    config.pluginmanager.register(Underway())
    tests, ending = os.getpid(), False

    def end(number: int, _frame: FrameType | None) -> None:
        nonlocal ending
        if os.getpid() == tests:
            if ending:
                return  # `timeout` and make send it once more to all that they started
            ending = True
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)  # a fork of ours dies of the signal, as any process would
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
    # A result that outlives its backend would wait for it, and keep the run from ending.
    AsyncResult.__del__ = lambda self: None


@pytest.fixture
def disk() -> Iterator[Path]:
    """A folder that outlives a restart of the host, where the other temporary folders may be in memory."""
    with tempfile.TemporaryDirectory(prefix="crisper-", dir="/var/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """SQLAlchemy URL of a PostgreSQL server's maintenance database, for making databases."""
    with needs("postgres"), places.postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_url(postgres_server: str) -> Iterator[str]:
    """SQLAlchemy URL of a database that only this run has; its tests share it."""
    with places.postgres_database(postgres_server) as url:
        yield url


@pytest.fixture
def postgres_database(postgres_server: str) -> Iterator[str]:
    """SQLAlchemy URL of an empty database that only this test has."""
    with places.postgres_database(postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[str]:
    """SQLAlchemy URL of a MariaDB server on which databases can be made."""
    with needs("mariadb"), places.mariadb_server() as url:
        yield url


@pytest.fixture
def mariadb_database(mariadb_server: str) -> Iterator[str]:
    """Registry URL of an empty database that only this test has."""
    with places.mariadb_database(mariadb_server) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A registry that holds nothing yet, on each database."""
    url = f"sqlite:///{tmp_path}/registry.db"
    if request.param != "sqlite":
        url = request.getfixturevalue(f"{request.param}_database")
    migrate.upgrade(url)
    return url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """URL of a Redis that only this run has; its tests share it."""
    with needs("redis"), places.redis_server() as url:
        yield url


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[places.Broker]:
    with needs("rabbitmq"), places.rabbitmq_server() as broker:
        yield broker


@pytest.fixture(scope="session")
def rabbitmq_url(rabbitmq_server: places.Broker) -> Iterator[str]:
    """URL of a virtual host that only this run has; its tests share it."""
    with rabbitmq_server.vhost() as url:
        yield url


@pytest.fixture
def rabbitmq_vhost(rabbitmq_server: places.Broker) -> Iterator[str]:
    """URL of an empty virtual host that only this test has; making it takes a second."""
    with rabbitmq_server.vhost() as url:
        yield url


@pytest.fixture
def own_postgres() -> Iterator[PrivatePostgres]:
    """A server that this test may stop, crash, pause and start."""
    with needs("postgres"), PrivatePostgres() as server:
        yield server


@pytest.fixture
def own_mariadb() -> Iterator[PrivateMariaDB]:
    """A server that this test may stop, crash, pause and start."""
    with needs("mariadb"), PrivateMariaDB() as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[PrivateRedis]:
    """A server that this test may stop, crash, pause and start."""
    with needs("redis"), PrivateRedis() as server:
        yield server


@pytest.fixture
def own_rabbitmq() -> Iterator[PrivateRabbitMQ]:
    """A node that this test may stop, crash, pause and start."""
    with needs("rabbitmq"), PrivateRabbitMQ() as server:
        yield server
