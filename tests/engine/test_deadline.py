"""The watchdog: a call that hangs for ever fails within its limit, and the next one may succeed."""

from __future__ import annotations

import threading
import time

import pytest

from crisper.engine.deadline import Watchdog
from crisper.errors import RegistryUnreachable
from crisper.store import migrate
from crisper.store.open import open_store
from crisper.store.sql import SqlStore
from tests.servers import PrivateServer
from tests.store.acting import PULSE, incarnation

LIMIT = 1.0
#: The watchdog looks every quarter of its limit; the rest is for a busy machine.
MARGIN = 1.0


@pytest.fixture(params=["postgres", "mariadb"])
def own_server(request: pytest.FixtureRequest) -> PrivateServer:
    return request.getfixturevalue(f"own_{request.param}")


@pytest.fixture
def store(own_server: PrivateServer) -> SqlStore:
    migrate.upgrade(own_server.url)
    return open_store(own_server.url)


def test_a_call_to_a_black_hole_fails_within_the_limit(own_server: PrivateServer, store: SqlStore) -> None:
    """The server stands still: its own timeouts cannot fire, and TCP answers for it."""
    watchdog = Watchdog(LIMIT)
    fence = store.enroll(incarnation())
    own_server.pause()
    began = time.monotonic()
    with pytest.raises(RegistryUnreachable), watchdog.call(store):
        store.renew(fence, PULSE)
    assert LIMIT <= time.monotonic() - began < LIMIT * 1.25 + MARGIN
    own_server.resume()
    with watchdog.call(store):
        assert store.renew(fence, PULSE)
    watchdog.stop()


def test_every_transaction_has_a_deadline_of_its_own(own_server: PrivateServer) -> None:
    """However many a sweep needs: it is the single one that must not hang."""
    migrate.upgrade(own_server.url)
    watchdog = Watchdog(LIMIT)
    store = open_store(own_server.url, within=watchdog.call)
    connection, give_up = None, time.monotonic() + LIMIT * 2
    while time.monotonic() < give_up:
        store.alive()
        assert connection in (None, store.db._connection)
        connection = store.db._connection
    own_server.pause()
    with pytest.raises(RegistryUnreachable):
        store.alive()
    own_server.resume()
    assert store.alive() == []
    watchdog.stop()


def test_connecting_to_a_black_hole_fails_too(own_server: PrivateServer, store: SqlStore) -> None:
    watchdog = Watchdog(LIMIT)
    own_server.pause()
    began = time.monotonic()
    with pytest.raises(RegistryUnreachable), watchdog.call(store):
        store.alive()
    assert time.monotonic() - began < 3 + MARGIN  # the driver's own limit for connecting
    own_server.resume()
    assert store.alive() == []
    watchdog.stop()


def test_two_threads_hang_and_each_is_freed(own_server: PrivateServer, store: SqlStore) -> None:
    watchdog, other = Watchdog(LIMIT), open_store(own_server.url)
    for one in (store, other):
        one.alive()
    own_server.pause()
    failed: list[float] = []

    def call(one: SqlStore) -> None:
        began = time.monotonic()
        with pytest.raises(RegistryUnreachable), watchdog.call(one):
            one.alive()
        failed.append(time.monotonic() - began)

    threads = [threading.Thread(target=call, args=(one,)) for one in (store, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(failed) == 2
    assert max(failed) < LIMIT * 1.25 + MARGIN
    watchdog.stop()


def test_a_call_in_time_is_left_alone(own_server: PrivateServer, store: SqlStore) -> None:
    watchdog = Watchdog(0.2)
    for _ in range(3):
        with watchdog.call(store):
            store.alive()
    connection = store.db._connection
    threading.Event().wait(0.5)  # longer than the limit, between two calls
    with watchdog.call(store):
        store.alive()
    assert store.db._connection is connection
    watchdog.stop()
