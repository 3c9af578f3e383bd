"""The private PostgreSQL is really harmed in the way that its methods say, and well again afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tests.faults.postgres import FaultyPostgres, Standby
from tests.faults.proxy import FaultProxy
from tests.fleet import wait_for
from tests.left_out import needs
from tests.servers import HOST


@contextmanager
def server(*preloaded: str, **options: object) -> Iterator[FaultyPostgres]:
    with needs("a postgres with faults"), FaultyPostgres(*preloaded, **options) as made:  # type: ignore[arg-type]
        yield made


def connect(server: FaultyPostgres) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True)


def test_a_full_or_read_only_server_takes_nothing_until_it_is_well_again() -> None:
    with server(small=True) as postgres, connect(postgres) as client:
        client.execute("CREATE TABLE kept (n integer, pad text)")
        with postgres.read_only(), pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            client.execute("INSERT INTO kept VALUES (1)")
        with postgres.full(), pytest.raises(psycopg.errors.DiskFull):
            client.execute("INSERT INTO kept SELECT n, repeat('x', 1000) FROM generate_series(1, 1000) n")
        client.execute("INSERT INTO kept VALUES (2)")
        assert client.execute("SELECT n FROM kept").fetchall() == [(2,)]


def test_a_slow_disk_costs_every_commit_and_a_wrong_clock_only_the_time() -> None:
    with server("slowfsync", "clockskew") as postgres, connect(postgres) as client:
        client.execute("CREATE TABLE kept (n integer)")
        with postgres.slow(300):
            began = time.monotonic()
            client.execute("INSERT INTO kept VALUES (1)")
            assert 0.3 <= time.monotonic() - began < 2
        for step in (3600, -3600):
            with postgres.clock_wrong_by(step):
                (told,) = client.execute("SELECT extract(epoch FROM clock_timestamp())").fetchone() or (0,)
                assert abs(float(str(told)) - time.time() - step) < 5


def test_in_a_crowd_nobody_gets_a_connection_but_who_has_one() -> None:
    with server(max_connections="20") as postgres, connect(postgres) as client:
        with postgres.crowded() as taken:
            assert taken >= 10
            with pytest.raises(psycopg.OperationalError, match="connection slots"):
                connect(postgres)
            client.execute("SELECT 1")
            assert postgres.connections("others") == taken
        wait_for("they left", lambda: postgres.connections("others") == 0)
        connect(postgres).close()


def test_a_promoted_standby_has_what_it_received_and_lacks_what_it_did_not() -> None:
    with (
        server() as primary,
        connect(primary) as client,
        FaultProxy((HOST, primary.port)) as between,
        Standby(primary, between.port) as standby,
    ):
        client.execute("CREATE TABLE kept (n integer)")
        client.execute("INSERT INTO kept VALUES (1)")
        wait_for("it follows", standby.follows)
        between.hold()
        client.execute("INSERT INTO kept VALUES (2)")
        between.reset()
        primary.crash()
        standby.promote()
        with connect(standby) as other:
            other.execute("INSERT INTO kept VALUES (3)")
            assert other.execute("SELECT n FROM kept ORDER BY n").fetchall() == [(1,), (3,)]
