"""The servers that other tests stand on do what their fixtures promise."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psycopg
import pymysql
import pytest
import redis
from kombu import Connection
from pymysql.constants import COMMAND
from sqlalchemy import create_engine, make_url, text

from tests import places
from tests.servers import (
    PrivateMariaDB,
    PrivatePostgres,
    PrivateRabbitMQ,
    PrivateRedis,
    PrivateServer,
    amqp_answers,
)

ROOT = Path(__file__).parent.parent


def scalar(url: str, statement: str) -> object:
    with create_engine(url).begin() as connection:
        return connection.execute(text(statement)).scalar()


def conninfo(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def round_trip(url: str, queue: str = "round-trip") -> object:
    with Connection(url) as connection, connection.SimpleQueue(queue) as box:
        box.put("lettuce")
        message = box.get(timeout=10)
        message.ack()
        return message.payload


def test_postgres_runs_statements_in_a_database_of_this_run(postgres_url: str) -> None:
    assert scalar(postgres_url, "SELECT current_database()") == make_url(postgres_url).database
    assert str(make_url(postgres_url).database).startswith(f"crisper_test_{os.getpid()}_")


def test_each_test_has_an_empty_postgres_database(postgres_server: str) -> None:
    tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
    with places.postgres_database(postgres_server) as one, places.postgres_database(postgres_server) as other:
        with create_engine(one).begin() as connection:
            connection.execute(text("CREATE TABLE lettuce (id int)"))
        assert (scalar(one, tables), scalar(other, tables)) == (1, 0)


def test_a_postgres_database_is_dropped_under_a_connection_that_stays(postgres_server: str) -> None:
    with places.postgres_database(postgres_server) as url:
        connection = psycopg.connect(conninfo(url))
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    name = make_url(url).database
    assert scalar(postgres_server, f"SELECT count(*) FROM pg_database WHERE datname = '{name}'") == 0


def test_postgres_keeps_what_was_committed_over_a_stop_or_crash(
    own_postgres: PrivatePostgres,
) -> None:
    port = own_postgres.port
    assert scalar(own_postgres.url, "SHOW fsync") == "on"
    assert scalar(own_postgres.url, "SHOW max_connections") == "300"
    with psycopg.connect(conninfo(own_postgres.url), autocommit=True) as connection:
        connection.execute("CREATE TABLE crops (name text)")
        for end in (own_postgres.stop, own_postgres.crash, lambda: os.kill(own_postgres.pid, signal.SIGKILL)):
            with psycopg.connect(conninfo(own_postgres.url)) as writer:
                writer.execute("INSERT INTO crops VALUES ('lettuce')")
            end()
            own_postgres.process and own_postgres.process.wait(10)
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(conninfo(own_postgres.url), connect_timeout=2)
            own_postgres.start()
    assert own_postgres.port == port
    assert scalar(own_postgres.url, "SELECT count(*) FROM crops") == 3


def test_a_paused_postgres_answers_nothing_until_it_is_resumed(
    own_postgres: PrivatePostgres,
) -> None:
    with psycopg.connect(conninfo(own_postgres.url), autocommit=True) as connection:
        own_postgres.pause()
        connection.pgconn.send_query(b"SELECT 1")
        connection.pgconn.flush()
        assert not readable_within(connection.fileno(), 0.5)
        own_postgres.resume()
        assert readable_within(connection.fileno(), 10)
        while connection.pgconn.get_result():
            pass


def test_redis_keeps_a_key(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        client.set("test_servers", "lettuce")
        assert client.getdel("test_servers") == "lettuce"


def test_redis_is_away_while_it_is_stopped_and_empty_afterwards(own_redis: PrivateRedis) -> None:
    with redis.Redis.from_url(own_redis.url, socket_timeout=0.5, retry=None) as client:
        for end in (own_redis.stop, own_redis.crash):
            client.set("crop", "lettuce")
            end()
            with pytest.raises(redis.ConnectionError):
                client.ping()
            own_redis.start()
            assert client.get("crop") is None


def test_a_paused_redis_answers_nothing_until_it_is_resumed(own_redis: PrivateRedis) -> None:
    with redis.Redis.from_url(own_redis.url, socket_timeout=0.5, retry=None) as client:
        client.set("crop", "lettuce")
        own_redis.pause()
        with pytest.raises(redis.TimeoutError):
            client.get("crop")
        own_redis.resume()
        assert client.get("crop") == b"lettuce"


def test_a_paused_mariadb_stands_still_with_every_thread_and_answers_once_it_is_resumed(
    own_mariadb: PrivateMariaDB,
) -> None:
    with pymysql.connect(host="127.0.0.1", port=own_mariadb.port, user="root") as client:
        own_mariadb.pause()
        threads = list(Path(f"/proc/{own_mariadb.pid}/task").glob("*/stat"))
        assert {thread.read_text().rpartition(")")[2].split()[0] for thread in threads} <= {"T"}
        client._execute_command(COMMAND.COM_PING, "")
        assert not readable_within(client._sock.fileno(), 0.3)
        own_mariadb.resume()
        assert readable_within(client._sock.fileno(), 10)


def test_rabbitmq_delivers_a_message(rabbitmq_url: str) -> None:
    assert round_trip(rabbitmq_url) == "lettuce"


def test_each_test_can_have_a_rabbitmq_virtual_host(rabbitmq_url: str, rabbitmq_vhost: str) -> None:
    with Connection(rabbitmq_url) as shared, shared.SimpleQueue("only-here") as box:
        box.put("lettuce")
        with Connection(rabbitmq_vhost) as own, own.SimpleQueue("only-here") as empty:
            assert (empty.qsize(), rabbitmq_vhost != rabbitmq_url) == (0, True)
        box.get(timeout=10).ack()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_rabbitmq_node_can_be_stopped_crashed_and_started(own_rabbitmq: PrivateRabbitMQ) -> None:
    assert round_trip(own_rabbitmq.url) == "lettuce"
    for end in (own_rabbitmq.stop, own_rabbitmq.crash):
        end()
        with pytest.raises(ConnectionRefusedError):
            amqp_answers(own_rabbitmq.url)
        own_rabbitmq.start()
        assert round_trip(own_rabbitmq.url) == "lettuce"


@pytest.mark.parametrize("kind", [PrivatePostgres, PrivateRedis])
@pytest.mark.parametrize("state", ["running", "stopped", "paused", "killed"])
def test_leaving_a_server_leaves_no_process_and_no_folder(kind: type[PrivateServer], state: str) -> None:
    with kind() as server:
        pid = server.pid
        {
            "running": lambda: None,
            "stopped": server.stop,
            "paused": server.pause,
            "killed": lambda: os.kill(pid, signal.SIGKILL),
        }[state]()
    assert not is_alive(pid)
    assert not server.folder.exists()


INTERRUPTED = """
    import os, signal
    from pathlib import Path
    import pytest

    @pytest.fixture
    def terminated_again(own_postgres):
        yield
        if signal.SIGNAL == signal.SIGTERM:  # `timeout` and make send it more than once
            os.kill(os.getpid(), signal.SIGTERM)

    def test_interrupted(own_postgres, redis_url, terminated_again):
        Path(os.environ["TOLD"]).write_text(f"{own_postgres.pid} {own_postgres.folder}")
        os.kill(os.getpid(), signal.SIGNAL)
        signal.pause()
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_an_interrupted_run_leaves_no_process_and_no_folder_and_says_what_was_underway(
    tmp_path: Path, number: str
) -> None:
    done, told = run_pytest(tmp_path, INTERRUPTED.replace("SIGNAL", number))
    pid, folder = told.split()
    assert done.returncode == pytest.ExitCode.INTERRUPTED, done.stdout
    assert re.search(r"underway for \d+ s: test_it.py::test_interrupted", done.stdout), done.stdout
    assert not is_alive(int(pid))
    assert not Path(folder).exists()


WITHOUT_SERVERS = """
    import pytest

    @pytest.mark.parametrize("n", [1, 2])
    def test_on_postgres(postgres_url, n): pass

    def test_on_rabbitmq(rabbitmq_url): pass

    def test_on_nothing(): pass
"""
NOWHERE = {
    "PATH": "",
    "CRISPER_TEST_POSTGRES_URL": "postgresql+psycopg://nobody:secret@127.0.0.1:9/none",
    "CRISPER_TEST_RABBITMQ_URL": "amqp://nobody:secret@127.0.0.1:9//",
}


def test_a_missing_server_leaves_tests_out_and_the_end_names_it(tmp_path: Path) -> None:
    done, _ = run_pytest(tmp_path, WITHOUT_SERVERS, NOWHERE, hide_programs=True)
    assert done.returncode == pytest.ExitCode.OK, done.stdout
    assert "1 passed, 3 skipped" in done.stdout
    assert "left out: postgres (2 tests): initdb is not installed, no server at " in done.stdout
    assert "left out: rabbitmq (1 test): rabbitmq-server is not installed, no server at " in done.stdout
    assert "set CRISPER_TEST_RABBITMQ_URL" in done.stdout
    assert "secret" not in done.stdout


def test_a_missing_server_fails_tests_where_servers_are_required(tmp_path: Path) -> None:
    required = {**NOWHERE, "CRISPER_REQUIRE_SERVERS": "1"}
    done, _ = run_pytest(tmp_path, WITHOUT_SERVERS, required, hide_programs=True)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "1 passed, 3 errors" in done.stdout
    assert "left out: postgres (2 tests)" in done.stdout


def run_pytest(
    folder: Path, tests: str, environment: dict[str, str] | None = None, *, hide_programs: bool = False
) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run these tests with the project's fixtures, in a pytest of their own; and what they wrote to $TOLD."""
    if hide_programs:
        (folder / "conftest.py").write_text("from pathlib import Path\nPath.glob = lambda *_: iter(())\n")
    (folder / "test_it.py").write_text(textwrap.dedent(tests))
    told = folder / "told"
    fixed = {"TOLD": str(told), "PYTHONPATH": str(ROOT), "CRISPER_REQUIRE_SERVERS": ""}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "tests.conftest",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            folder,
            folder,
        ],
        cwd=folder,
        env={**os.environ, **fixed, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return done, told.read_text() if told.exists() else ""


def readable_within(descriptor: int, seconds: float) -> bool:
    return bool(select.select([descriptor], [], [], seconds)[0])


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
