"""Alerts as `crisper serve` sends them: from what the registry holds, one message per incident."""

from __future__ import annotations

import signal
import threading
from contextlib import closing
from pathlib import Path

import pytest

from crisper.core.states import VerdictKind
from crisper.errors import RegistryUnreachable
from crisper.store import migrate
from crisper.store.open import open_store
from crisper.store.sql import SqlStore
from tests.alerts.conftest import Looks
from tests.alerts.receiver import Receiver
from tests.faces.scene import Scene
from tests.fleet import wait_for
from tests.serve.test_process import LINK, serving
from tests.servers import PrivatePostgres
from tests.store.acting import SCOPE, Actor


def quarantine(store: SqlStore, by: Actor, *tasks: str) -> None:
    """They were lost once too often."""
    dead = Actor(store, hostname="celery@dead", lease_ms=20_000)
    for task in tasks:
        dead.runs(task, f"message of {task}", name="shop.charge")
    dead.is_lost()
    for case in store.take_cases(by.id, SCOPE, limit=100):
        assert store.decide(case.recovery, VerdictKind.QUARANTINE, "too often", {}, by=by.id)


def test_of_two_that_look_at_once_one_tells(store: SqlStore, looks: Looks, receiver: Receiver) -> None:
    url = store.test_url  # type: ignore[attr-defined]
    alive = Actor(store, hostname="celery@alive", lease_ms=3_600_000)
    both = [looks(url), looks(url)]
    at_once = threading.Barrier(2)

    def look(one: int) -> None:
        with closing(open_store(url)) as own:
            both[one].tick(own)
            for _ in range(4):
                at_once.wait(20)
                both[one].tick(own)

    both[0].tick(store)
    quarantine(store, alive, "a", "b")
    threads = [threading.Thread(target=look, args=(one,)) for one in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    both[0].tick(store)  # what lost every race is told now
    assert sorted(receiver.told()) == [
        ("crisper.quarantine.begun", 2),
        ("crisper.worker_lost.begun", 1),
        ("crisper.worker_lost.over", 1),  # nothing of it is left to bring back
    ]

    for task in ("a", "b"):
        assert store.discard(task, by="ann", reason="done with")
    both[1].tick(store)
    assert receiver.told()[3:] == [("crisper.quarantine.over", 2)]
    assert {one["source"] for one in receiver.got} == {f"/crisper/{store.identity()}"}


def test_a_lost_worker_is_over_once_all_it_held_is_brought_back(
    store: SqlStore, looks: Looks, receiver: Receiver
) -> None:
    one = looks(store.test_url)  # type: ignore[attr-defined]
    one.tick(store)
    alive = Actor(store, hostname="celery@alive", lease_ms=3_600_000)
    dead = Actor(store, hostname="celery@dead", lease_ms=20_000)
    dead.runs("a", "its message")
    dead.is_lost()
    one.tick(store)
    one.tick(store)
    assert receiver.told() == [("crisper.worker_lost.begun", 1)]
    [case] = store.take_cases(alive.id, SCOPE, limit=10)
    decided = store.decide(case.recovery, VerdictKind.RESEND, "late acks", {}, by=alive.id)
    assert decided is not None
    one.tick(store)
    assert len(receiver.told()) == 1
    assert store.complete(decided, by=alive.id, data={})
    one.tick(store)
    assert receiver.told()[1:] == [("crisper.worker_lost.over", 1)]


def test_what_could_not_be_sent_is_kept_and_sent_again_under_its_id(
    store: SqlStore, looks: Looks, receiver: Receiver
) -> None:
    said: list[str] = []
    one = looks(store.test_url, said)  # type: ignore[attr-defined]
    one.tick(store)
    store.note("brake", None, None, "sweeper", {"silent": 6, "alive": 10})
    receiver.answers = 503
    one.tick(store)
    assert said == ["an alert (brake) could not be sent: the webhook at 127.0.0.1 answered 503"]
    receiver.answers = 200
    one.tick(store)
    assert receiver.got == []  # not yet due
    with store.db.write():
        [(text,)] = store.db.rows("SELECT r.value FROM crisper_registry r WHERE r.key = 'alerts'")
        early = text.replace('"tries":1,"due":', '"tries":1,"due":-')
        assert early != text
        store.db.run("UPDATE crisper_registry SET value = ? WHERE crisper_registry.key = 'alerts'", early)
    looks(store.test_url).tick(store)  # type: ignore[attr-defined]
    assert receiver.told() == [("crisper.brake.begun", 1)]
    assert receiver.got[0]["id"] == receiver.refused[0]["id"]
    assert receiver.got[0]["data"]["items"] == [{"silent": 6, "alive": 10}]


@pytest.mark.timeout(90)
def test_a_registry_that_is_away_is_told_once_and_so_is_its_return(
    own_postgres: PrivatePostgres, looks: Looks, receiver: Receiver
) -> None:
    migrate.upgrade(own_postgres.url)
    one = looks(own_postgres.url, every=0.1, down_after=0.5)
    one.start()
    try:
        with closing(open_store(own_postgres.url)) as store:
            wait_for("it leads", lambda: store.term("alerts") is not None)
        own_postgres.crash()
        with pytest.raises(RegistryUnreachable):
            open_store(own_postgres.url).identity()
        wait_for("it is told", lambda: receiver.told() == [("crisper.registry_down.begun", 1)])
        own_postgres.start()
        wait_for("its return is told", lambda: len(receiver.told()) > 1)
        assert receiver.told() == [("crisper.registry_down.begun", 1), ("crisper.registry_down.over", 1)]
    finally:
        one.stop()


def told_of_an_outage(looks: Looks, receiver: Receiver, url: str, at: int) -> str:
    before = len(receiver.got)
    one = looks(url, every=0.1, down_after=0.2, clock=lambda: at * 1_000_000_000)
    one.start()
    try:
        wait_for("it is told", lambda: len(receiver.got) > before)
    finally:
        one.stop()
    return str(receiver.got[-1]["id"])


def test_two_that_never_reached_the_registry_tell_of_its_outage_by_one_id(
    looks: Looks, receiver: Receiver
) -> None:
    """So that who receives both knows the second: there is no registry to settle who tells."""
    url, at = "postgresql://somebody:secret@127.0.0.1:1/crisper", 1_800_000_030
    id = told_of_an_outage(looks, receiver, url, at)
    assert told_of_an_outage(looks, receiver, url, at + 8) == id
    assert told_of_an_outage(looks, receiver, url, at + 60) != id
    assert told_of_an_outage(looks, receiver, "postgresql://127.0.0.1:1/another", at) != id


def test_crisper_serve_tells_of_what_waits(tmp_path: Path, receiver: Receiver) -> None:
    with closing(Scene(f"sqlite:///{tmp_path}/registry.db")) as scene:
        with serving(scene.url, "--no-sweep") as process:
            wait_for("it is told", receiver.told)
            assert process.ends(signal.SIGTERM) == 0
        assert receiver.told() == [("crisper.quarantine.begun", 1)]
        with serving(scene.url, "--no-sweep") as process:
            process.wait_for(LINK)
            leader = wait_for("the alerts of the first", lambda: scene.store.term("alerts"))
            assert leader.holder.startswith("serve:")
            assert process.ends(signal.SIGTERM) == 0
    assert len(receiver.got) == 1
