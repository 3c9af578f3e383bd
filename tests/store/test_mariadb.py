"""What MariaDB does otherwise than the other databases, and must not be seen in the contract."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from crisper.core.model import Message
from crisper.core.states import State
from crisper.errors import RegistryMoved, RegistryUnreachable, RegistryUnusable
from crisper.store import migrate
from crisper.store.database import Conflict, Place
from crisper.store.mariadb import MariadbDatabase, _translated
from crisper.store.mariadb_connect import _checked_version
from crisper.store.open import open_store
from crisper.store.sql import SqlStore
from crisper.store.sql.parts import TRIES
from tests.left_out import needs
from tests.servers import PrivateMariaDB, Unavailable
from tests.store.acting import PULSE, Actor, SqlRegistry, claim


@pytest.fixture
def store(mariadb_registry: SqlRegistry) -> SqlStore:
    return mariadb_registry.store


def test_ids_that_differ_in_case_an_accent_or_a_trailing_space_are_different_tasks(
    mariadb_registry: SqlRegistry,
) -> None:
    """Its usual collations would take them for one task, and refuse the second as a copy."""
    me = mariadb_registry.joins()
    ids = ["task", "Task", "tásk", "task ", "task\t"]
    assert [a.kind for a in me.record(*(me.wants(id, id) for id in ids))] == ["granted"] * len(ids)
    assert [len(mariadb_registry.attempts(id)) for id in ids] == [1] * len(ids)


def test_what_exists_already_in_the_middle_of_a_batch_costs_only_its_own_row(
    mariadb_registry: SqlRegistry,
) -> None:
    """The server leaves out every statement after one that failed."""
    me, other = mariadb_registry.joins(), mariadb_registry.joins()
    other.record(*(other.wants(f"t{n:02}") for n in (0, 7, 8, 19)))
    answers = me.record(*(me.wants(f"t{n:02}") for n in range(20)))
    assert [n for n, a in enumerate(answers) if a.kind != "granted"] == [0, 7, 8, 19]


def test_rows_changed_are_rows_matched(store: SqlStore) -> None:
    """A compare-and-set that writes what stands there already has won all the same."""
    me = Actor(store)
    with store.db.write():
        same = "UPDATE crisper_incarnation SET counter = counter WHERE id = ?"
        assert store.db.run(same, me.id) == 1
        assert store.db.each(same, [(me.id,), ("nobody",), (me.id,)]) == [1, 0, 1]


def test_a_batch_larger_than_a_packet_goes_in_several(mariadb_registry: SqlRegistry) -> None:
    me, body = mariadb_registry.joins(), b"x" * 3_000_000
    wanted = [me.wants(f"t{n}", message=Message(body, "{}", len(body))) for n in range(8)]
    assert [a.kind for a in me.record(*wanted)] == ["granted"] * 8
    assert all(mariadb_registry.body(f"t{n}", 1) == body for n in range(8))


def test_a_message_larger_than_a_packet_is_tracked_and_says_why_it_is_not_kept(
    mariadb_registry: SqlRegistry,
) -> None:
    """It would end the connection, again and again, with every record behind it."""
    me, most = mariadb_registry.joins(), mariadb_registry.store.db.largest
    fits, does_not = b"x" * (most - 2), b"x" * (most - 1)
    kept, large = (me.wants(f"{len(b)}", message=Message(b, "{}", len(b))) for b in (fits, does_not))
    assert [a.kind for a in me.record(kept, large)] == ["granted"] * 2
    assert mariadb_registry.body(kept.task_id, 1) == fits
    assert mariadb_registry.body(large.task_id, 1) is None
    assert str(mariadb_registry.attempt(large.task_id).why_not_kept).endswith("the registry server's packet")


def test_a_lock_that_another_holds_is_waited_for_again(mariadb_registry: SqlRegistry) -> None:
    """Two seconds, where one wait for a lock takes one."""
    me, blocker = mariadb_registry.joins(), mariadb_registry.another()
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with blocker.db.write():
            blocker.db.run("UPDATE crisper_incarnation SET counter = counter WHERE id = ?", me.id)
            held.set()
            release.wait(2)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    assert mariadb_registry.store.renew(me.fence, PULSE)
    thread.join(10)


def test_a_lock_that_is_never_given_back_ends_as_unreachable(mariadb_registry: SqlRegistry) -> None:
    me, blocker = mariadb_registry.joins(), mariadb_registry.another()
    tries = []

    class Counted(MariadbDatabase):
        def _said(self, exc: Exception) -> Exception:
            said = super()._said(exc)
            tries.append(type(said))
            return said

    with closing(SqlStore(Counted(mariadb_registry.url))) as store:
        blocker.db._connect().cursor().execute("SET idle_transaction_timeout = 0")
        with blocker.db.write():
            blocker.db.run("UPDATE crisper_incarnation SET counter = counter WHERE id = ?", me.id)
            with pytest.raises(RegistryUnreachable, match="kept refusing"):
                store.renew(me.fence, PULSE)
        assert tries == [Conflict] * TRIES
        assert store.renew(me.fence, PULSE)


def test_open_attempts_are_found_without_a_look_at_history(mariadb_registry: SqlRegistry) -> None:
    me = mariadb_registry.joins()
    for at in range(0, 3000, 500):
        wanted = [me.wants(f"{at + n}") for n in range(500)]
        me.record(*wanted)
        me.record(*(me.finish(one, State.SUCCEEDED) for one in wanted))
    me.claims("open")
    store = mariadb_registry.store
    before = _rows_read(store)
    assert store.close_lost(me.id, by="x") == ((), False)  # it is alive
    me.is_declared()
    assert store.close_lost(me.id, by="sweeper") == (("open",), False)
    assert _rows_read(store) - before < 100
    assert mariadb_registry.states("open") == [State.LOST]


def _rows_read(store: SqlStore) -> int:
    with store.db.write():
        return sum(int(n) for _, n in store.db.rows("SHOW SESSION STATUS LIKE 'Handler_read%'"))


def test_only_what_is_said_for_an_incarnation_is_translated() -> None:
    finish = "UPDATE t SET s = ? WHERE incarnation = ? AND seq = ? AND state IN ('claimed', 'running')"
    assert _translated(finish).text == finish.replace("?", "%s")
    assert _translated("INSERT INTO t VALUES (?) ON CONFLICT DO NOTHING") == (
        "INSERT INTO t VALUES (%s)",
        True,
    )


def test_a_server_without_skip_locked_is_refused() -> None:
    for old in ("5.5.5-10.5.29-MariaDB-log", "10.3.39-MariaDB"):
        with pytest.raises(RegistryUnusable, match=r"10\.6 or newer"):
            _checked_version("mariadb://h/db", old)
    for new in ("5.5.5-10.11.6-MariaDB-0+deb12u1", "11.4.2-MariaDB", "10.6.1-MariaDB"):
        assert _checked_version("mariadb://h/db", new)
    assert not _checked_version("mysql://h/db", "8.0.36")


# TLS.


@pytest.fixture
def certificates() -> Iterator[Path]:
    """In a folder that the server's own user can read."""
    with needs("openssl"):
        if shutil.which("openssl") is None:
            raise Unavailable("openssl is not installed")
    with tempfile.TemporaryDirectory(prefix="crisper-tls-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        for name in ("ours", "strange"):
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                 "-subj", "/CN=registry", "-addext", "subjectAltName=IP:127.0.0.1",
                 "-keyout", f"{name}.key", "-out", f"{name}.pem"],
                cwd=folder, check=True, capture_output=True,
            )  # fmt: skip
        (folder / "ours.key").chmod(0o644)
        yield folder


@pytest.fixture
def tls_server(certificates: Path) -> Iterator[PrivateMariaDB]:
    with needs("mariadb"):
        server = PrivateMariaDB(ssl_cert=f"{certificates}/ours.pem", ssl_key=f"{certificates}/ours.key")
    with server:
        yield server


def _cipher(url: str) -> str:
    with closing(open_store(url)) as store, store.db.write():
        [(_, cipher)] = store.db.rows("SHOW STATUS LIKE 'Ssl_cipher'")
    return str(cipher)


def test_tls_is_verified_if_it_is_asked_for(tls_server: PrivateMariaDB, certificates: Path) -> None:
    url = tls_server.url
    assert _cipher(f"{url}?ssl_ca={certificates}/ours.pem")
    migrate.upgrade(f"{url}?ssl_ca={certificates}/ours.pem")
    with pytest.raises(RegistryUnreachable, match=r"(?i)certificate"):
        _cipher(f"{url}?ssl_ca={certificates}/strange.pem")
    with pytest.raises(RegistryUnreachable, match=r"(?i)certificate"):
        _cipher(f"{url}?ssl=true")  # the machine's authorities do not know it
    elsewhere = url.replace("127.0.0.1", "localhost")
    with pytest.raises(RegistryUnreachable, match=r"(?i)hostname"):
        _cipher(f"{elsewhere}?ssl_ca={certificates}/ours.pem")
    assert _cipher(f"{elsewhere}?ssl_ca={certificates}/ours.pem&ssl_check_hostname=false")
    assert _cipher(f"{url}?ssl=false") == ""


def test_tls_that_is_asked_for_is_not_done_without(own_mariadb: PrivateMariaDB, certificates: Path) -> None:
    assert _cipher(own_mariadb.url) == ""
    with pytest.raises(RegistryUnreachable, match="SSL is required"):
        _cipher(f"{own_mariadb.url}?ssl_ca={certificates}/ours.pem")


def test_a_socket_file_is_a_place_too(own_mariadb: PrivateMariaDB) -> None:
    url = f"mysql://root@localhost/test?unix_socket={own_mariadb.folder}/sock"
    migrate.upgrade(url)
    with closing(open_store(url)) as store:
        me = Actor(store)
        assert me.asks(claim(1)).kind == "granted"


def test_another_server_at_the_same_address_is_told_apart(
    own_mariadb: PrivateMariaDB, mariadb_server: str
) -> None:
    """A replica took over, say; it may lack the latest commits."""
    place = Place()
    for url in (own_mariadb.url, mariadb_server):
        migrate.upgrade(url)
    with closing(open_store(own_mariadb.url, place=place)) as store:
        store.alive()
        store.look_around()
    own_mariadb.crash()
    own_mariadb.start()
    with closing(open_store(own_mariadb.url, place=place)) as store:
        store.alive()  # the same one, after a crash
    with closing(open_store(mariadb_server, place=place)) as store, pytest.raises(RegistryMoved):
        store.alive()
    assert not place.replicated


def test_a_server_that_writes_a_log_for_replicas_is_known_to_be_followed() -> None:
    with needs("mariadb"), PrivateMariaDB(log_bin="log") as server:
        migrate.upgrade(server.url)
        place = Place()
        with closing(open_store(server.url, place=place)) as store:
            me = Actor(store)
            assert me.asks(claim(1)).kind == "granted"
        assert place.replicated
