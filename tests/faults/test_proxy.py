"""What the fault proxy does to a connection, seen from both of its ends."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from tests.faults.cuts import Cut, Raw, Sql, at_commit, at_statement
from tests.faults.proxy import FaultProxy, order
from tests.fleet import ROOT, wait_for


class Echo(socketserver.BaseRequestHandler):
    heard = bytearray()

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.request.recv(65536):
                self.heard += data
                self.request.sendall(data)


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    Echo.heard = bytearray()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address  # type: ignore[misc]
        server.shutdown()


@pytest.fixture
def proxy(echo: tuple[str, int]) -> Iterator[FaultProxy]:
    with FaultProxy(echo) as made:
        yield made


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as made:
        yield made


def says(client: socket.socket, data: bytes = b"word") -> float:
    """Seconds until it comes back."""
    began = time.monotonic()
    client.sendall(data)
    back = b""
    while len(back) < len(data):
        more = client.recv(65536)
        if not more:
            raise ConnectionResetError
        back += more
    assert back == data
    return time.monotonic() - began


def test_without_a_fault_everything_passes(client: socket.socket, proxy: FaultProxy) -> None:
    assert says(client, b"x" * 200_000) < 5
    assert says(client) < 0.1
    assert proxy.counts.bytes_up == proxy.counts.bytes_down == 200_004


def test_latency_is_of_its_direction_and_keeps_the_order(client: socket.socket, proxy: FaultProxy) -> None:
    proxy.up.delay, proxy.down.delay, proxy.down.jitter = 0.1, 0.15, 0.05
    assert 0.2 <= says(client) < 0.6
    for n in range(50):
        client.sendall(bytes([n]))
    back = b""
    while len(back) < 50:
        back += client.recv(100)
    assert back == bytes(range(50))


def test_what_a_black_hole_held_arrives_when_it_is_over(client: socket.socket, proxy: FaultProxy) -> None:
    proxy.down.hold = True
    client.sendall(b"word")
    wait_for("the server heard it", lambda: Echo.heard == b"word")
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.recv(10)
    proxy.heal()
    client.settimeout(10)
    assert client.recv(10) == b"word"


def test_a_black_hole_towards_the_server_keeps_it_from_hearing(
    client: socket.socket, proxy: FaultProxy
) -> None:
    proxy.up.hold = True
    client.sendall(b"word")
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.recv(10)
    assert Echo.heard == b""
    proxy.heal()
    wait_for("the server heard it", lambda: Echo.heard == b"word")


def test_loss_costs_a_segment_the_time_to_send_it_again(client: socket.socket, proxy: FaultProxy) -> None:
    proxy.up.loss = 0.3
    took = [says(client) for _ in range(25)]
    assert sum(seconds > 0.19 for seconds in took) >= 2
    assert sum(seconds < 0.1 for seconds in took) >= 8


def test_bandwidth_has_a_limit(client: socket.socket, proxy: FaultProxy) -> None:
    proxy.up.rate = 200_000
    assert says(client, b"x" * 100_000) > 0.3
    proxy.heal()
    assert says(client, b"x" * 100_000) < 0.3


def test_a_reset_reaches_the_client(client: socket.socket, proxy: FaultProxy) -> None:
    says(client)
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        says(client)
    wait_for("it is forgotten", lambda: proxy.connections() == 0)


def test_refused_are_new_connections_only(client: socket.socket, proxy: FaultProxy) -> None:
    says(client)
    proxy.refuse = True
    with (
        pytest.raises(ConnectionResetError),
        socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as another,
    ):
        says(another)
    says(client)
    proxy.heal()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as third:
        says(third)
    assert proxy.counts.refused == 1


@pytest.mark.parametrize("heard", [False, True])
def test_a_cut_strikes_where_it_was_told_to_and_so_often(
    heard: bool, client: socket.socket, proxy: FaultProxy
) -> None:
    says(client)
    cut = proxy.cut(Cut("now", heard=heard))
    says(client, b"not yet")
    with pytest.raises(ConnectionResetError):
        says(client, b"and now!")
    wait_for("all was said", lambda: proxy.connections() == 0)
    assert Echo.heard.endswith(b"and now!") == heard
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as another:
        says(another, b"now again")
    assert cut.done == 1


def test_a_pattern_may_lie_across_two_chunks() -> None:
    raw = Raw()
    assert [any("pattern" in phrase for phrase in raw.hear(part)) for part in (b"a pat", b"tern")] == [
        False,
        True,
    ]


@pytest.mark.parametrize("heard", [False, True])
def test_a_cut_at_a_commit_leaves_it_undone_or_done_and_the_client_in_the_dark(
    heard: bool, postgres_database: str
) -> None:
    direct = postgres_database.replace("+psycopg", "")
    with psycopg.connect(direct, autocommit=True) as own:
        own.execute("CREATE TABLE kept (n integer)")
        port = int(own.info.port)
        with FaultProxy(("127.0.0.1", port), Sql) as proxy:
            connection = psycopg.connect(proxy.address_in(direct), autocommit=True)
            for n in range(8):  # from the sixth on it is prepared, and its text is not sent again
                with connection.transaction():
                    connection.execute("INSERT INTO kept VALUES (%s)", (n,))
            cut = proxy.cut(at_commit("INSERT INTO kept", heard=heard))
            with connection.transaction():
                connection.execute("SELECT 1")
            with pytest.raises(psycopg.OperationalError), connection.transaction():
                connection.execute("INSERT INTO kept VALUES (%s)", (99,))
            assert cut.done == 1
            found = own.execute("SELECT n FROM kept WHERE n = 99").fetchall()
            assert found == ([(99,)] if heard else [])


@pytest.mark.parametrize("heard", [False, True])
def test_a_cut_at_a_statement_knows_its_parameters_and_leaves_it_undone_or_done(
    heard: bool, postgres_database: str
) -> None:
    direct = postgres_database.replace("+psycopg", "")
    insert = "WITH new AS (INSERT INTO kept VALUES (%s) RETURNING word) SELECT word FROM new"
    with psycopg.connect(direct, autocommit=True) as own:
        own.execute("CREATE TABLE kept (word text)")
        with FaultProxy(("127.0.0.1", int(own.info.port)), Sql) as proxy:
            connection = psycopg.connect(proxy.address_in(direct), autocommit=True)
            cut = proxy.cut(at_statement("the last", heard=heard))
            later = proxy.cut(at_commit("INSERT INTO kept", heard=heard))
            for n in range(8):
                connection.execute(insert, (f"not {n}",))
            with connection.transaction():
                connection.execute("SELECT 1")
            with pytest.raises(psycopg.OperationalError):
                connection.execute(insert, ("the last",))
            assert (cut.done, later.done) == (1, 0)
            found = own.execute("SELECT word FROM kept WHERE word = 'the last'").fetchall()
            assert found == ([("the last",)] if heard else [])


def test_it_may_be_ordered_by_hand(echo: tuple[str, int]) -> None:
    command = [sys.executable, "-m", "tests.faults.proxy", f"127.0.0.1:{echo[1]}"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as by_hand:
        assert by_hand.stdin is not None
        assert by_hand.stdout is not None
        port = int(by_hand.stdout.readline().split(" ")[0].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            says(client)
            by_hand.stdin.write("up.delay 0.2\n")
            by_hand.stdin.flush()
            assert "connections=1" in by_hand.stdout.readline()
            assert says(client) > 0.19
        by_hand.stdin.close()


def test_an_order_that_makes_no_sense_is_refused(proxy: FaultProxy) -> None:
    order(proxy, "down.hold 1")
    assert proxy.down.hold is True
    order(proxy, "heal")
    assert proxy.down.hold is False
    for nonsense in ("up.dely 1", "explode", "up.delay much"):
        with pytest.raises(ValueError, match=r"."):
            order(proxy, nonsense)
