"""Workers and publishers without Crisper beside those with it, on one queue: adopted, and taken back."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from celery import signals

from crisper.celery import MESSAGE_ID_HEADER
from tests.acceptance.asking import crisper, state_of
from tests.acceptance.watching import nothing_left_in_the_broker
from tests.celery.conftest import module_urls
from tests.fleet import Fleet, Worker, wait_for

PLAIN = {"FLEET_PLAIN": "1"}


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp(request.param)
    urls = module_urls(request.param, request)
    made = Fleet(folder, redelivery_grace=1, heartbeat_interval=0.5, **urls)
    yield made
    made.close()


@pytest.fixture(scope="module")
def recorded(fleet: Fleet) -> Worker:
    return fleet.worker("recorded", "--prefetch-multiplier", "1")


@pytest.fixture(scope="module")
def plain(fleet: Fleet) -> Worker:
    return fleet.worker("plain", "--prefetch-multiplier", "1", **PLAIN)


@contextlib.contextmanager
def a_publisher_without_crisper() -> Iterator[None]:
    """In a process that has Crisper: its header is taken off again."""

    def take_off(headers: dict[str, Any], **_: Any) -> None:
        headers.pop(MESSAGE_ID_HEADER, None)

    signals.before_task_publish.connect(take_off)
    try:
        yield
    finally:
        signals.before_task_publish.disconnect(take_off)


def consume(fleet: Fleet, *workers: Worker) -> None:
    """From now on these take messages, and no others that run."""
    names = {f"{worker.name}@test" for worker in workers}
    running = {f"{worker.name}@test" for worker in fleet.workers if worker.process.poll() is None}
    for command, who, takes in (("add_consumer", names, True), ("cancel_consumer", running - names, False)):
        if who:
            wait_for(f"{command}: {who}", partial(_heard, fleet, command, who, takes), 30)


def _heard(fleet: Fleet, command: str, who: set[str], takes: bool) -> bool:
    """A node that is not listening yet does not hear of it, and one that says yes does it a moment later."""
    asked = {"destination": list(who), "reply": True, "timeout": 5, "limit": len(who)}
    fleet.app.control.broadcast(command, {"queue": "celery"}, **asked)
    answers = fleet.app.control.broadcast("active_queues", **asked)
    taking = {
        name: any(queue["name"] == "celery" for queue in of) for each in answers for name, of in each.items()
    }
    return taking == dict.fromkeys(who, takes)


def on_record(fleet: Fleet, ids: set[str]) -> dict[str, list[str]]:
    states = {id: [state for _, state in fleet.attempts(id)] for id in ids}
    return {id: of_task for id, of_task in states.items() if of_task}


def by(fleet: Fleet, worker: Worker) -> set[str]:
    """Tasks whose bodies began in the worker."""
    pool = set(worker.pool())
    return {line.task_id for line in fleet.starts() if line.pid in pool}


def blind(fleet: Fleet, *names: str) -> None:
    """They are what `status` names. A busy machine may answer it late, so it is asked again."""
    wait_for(f"{names} are blind", lambda: crisper(fleet, "status")["workers"]["blind"] == list(names), 40)


def test_each_runs_once_whoever_publishes_and_whoever_takes_it(
    fleet: Fleet, recorded: Worker, plain: Worker
) -> None:
    consume(fleet, recorded, plain)
    sent = {fleet.send(name, 0, 0.1).id for name in ("late", "early") * 10}
    with a_publisher_without_crisper():
        sent |= {fleet.send(name, 0, 0.1).id for name in ("late", "early") * 7}
        sent |= {fleet.send("retry_once", key).id for key in range(7)}
    wait_for("all ended", lambda: {line.task_id for line in fleet.ends()} >= sent, 40)
    wait_for("no attempt left open", lambda: fleet.open_attempts() == 0)
    nothing_left_in_the_broker(fleet)
    begun = Counter(line.task_id for line in fleet.starts())
    retried = {line.task_id for line in fleet.starts() if line.name == "retry_once"}
    assert {begun[id] for id in sent - retried} == {1}
    assert {begun[id] for id in retried} == {2}
    here, there = by(fleet, recorded), by(fleet, plain)
    assert here
    assert there
    known = on_record(fleet, sent)
    assert set(known) == here
    assert all(known[id] == ["succeeded"] for id in here - retried)
    assert fleet.rows("SELECT task_id FROM crisper_recovery") == []
    assert fleet.errors() == []


@pytest.mark.parametrize("publisher", ["with", "without"])
def test_a_task_that_is_bounced_between_both_has_the_states_that_crisper_saw(
    fleet: Fleet, recorded: Worker, plain: Worker, publisher: str
) -> None:
    with a_publisher_without_crisper() if publisher == "without" else contextlib.nullcontext():
        consume(fleet, recorded)
        away = fleet.send("retry_after", "away", f"away {publisher}".replace(" ", "-"))
        wait_for("it runs on record", lambda: fleet.attempts(away.id) == [(1, "running")])
        consume(fleet, plain)
        home = fleet.send("retry_after", "home", f"home-{publisher}")
        wait_for("it runs off record", lambda: fleet.starts(home.id))
        (fleet.folder / f"away-{publisher}").touch()
        wait_for("one came to its end without Crisper", lambda: len(fleet.starts(away.id)) == 2)
        consume(fleet, recorded)
        (fleet.folder / f"home-{publisher}").touch()
    wait_for("both ended", lambda: fleet.ends(away.id) and fleet.ends(home.id))
    wait_for("no attempt left open", lambda: fleet.open_attempts() == 0)
    assert fleet.attempts(away.id) == [(1, "retried")]
    assert fleet.attempts(home.id) == [(1, "succeeded")]
    nothing_left_in_the_broker(fleet)
    assert fleet.errors() == []


def test_status_names_who_answers_and_is_not_on_record(fleet: Fleet, recorded: Worker, plain: Worker) -> None:
    blind(fleet, "plain@test")


def test_what_a_dead_worker_held_runs_once_more_at_most_though_plain_workers_take_it(
    fleet: Fleet, recorded: Worker, plain: Worker
) -> None:
    """Two run and two are prefetched when it dies. The plain worker is at them for longer than a redelivery
    is awaited (RabbitMQ), and than an entry goes without being renewed before it is looked at (Redis)."""
    victim = fleet.worker("victim")
    consume(fleet, victim)
    sent = {fleet.send("late", key, "dead").id for key in range(4)}
    wait_for("all on record", lambda: len(on_record(fleet, sent)) == 4)
    wait_for("two run", lambda: len(by(fleet, victim) & sent) == 2)
    interrupted = by(fleet, victim)
    consume(fleet, plain)
    victim.kill()
    wait_for("the plain worker has two", lambda: len(by(fleet, plain) & sent) == 2)
    consume(fleet, plain, recorded)
    _stays(fleet, sent, interrupted, seconds=4)
    (fleet.folder / "dead").touch()
    wait_for("all ended", lambda: {line.task_id for line in fleet.ends()} >= sent)
    wait_for("decided", lambda: not fleet.rows("SELECT 1 FROM crisper_recovery WHERE state <> 'done'"), 30)
    wait_for("no attempt left open", lambda: fleet.open_attempts() == 0)
    nothing_left_in_the_broker(fleet)
    begun = Counter(line.task_id for line in fleet.starts() if line.task_id in sent)
    assert begun == Counter(sent) + Counter(interrupted & sent)
    assert fleet.errors() == []


def _stays(fleet: Fleet, sent: set[str], interrupted: set[str], seconds: float) -> None:
    """Nobody begins what is running, for so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        begun = Counter(line.task_id for line in fleet.starts() if line.task_id in sent)
        twice = {id for id, times in begun.items() if times > 1 + (id in interrupted)}
        assert not twice, (twice, [fleet.recoveries(id) for id in twice])
        time.sleep(0.2)


def test_a_worker_that_goes_back_to_plain_leaves_nothing_open_and_what_it_returned_runs_once(
    fleet: Fleet, recorded: Worker, plain: Worker
) -> None:
    """Its prefetched messages return to the queue; it takes them again, plain, and is at them for long."""
    leaver = fleet.worker("leaver", "-c", "1")
    consume(fleet, leaver)
    sent = {fleet.send("late", key, f"leave-{key}").id for key in range(3)}
    wait_for("all on record", lambda: len(on_record(fleet, sent)) == 3)
    [begun] = wait_for("one runs", lambda: [x for x in fleet.starts() if x.task_id in sent])
    leaver.send_signal(signal.SIGTERM)
    (fleet.folder / f"leave-{begun.key}").touch()
    assert leaver.process.wait(30) == 0
    back = fleet.worker("leaver", "-c", "2", wait=False, CRISPER_ENABLED="false")
    wait_for("it has what it returned", lambda: len(by(fleet, back) & sent) == 2, 30)
    assert back.recorders() == []
    consume(fleet, back, recorded)
    _stays(fleet, sent, set(), seconds=4)
    blind(fleet, "leaver@test", "plain@test")
    for key in range(3):
        (fleet.folder / f"leave-{key}").touch()
    wait_for("all ended", lambda: {line.task_id for line in fleet.ends()} >= sent)
    assert fleet.open_attempts() == 0
    assert sorted(on_record(fleet, sent).values()) == [["released"], ["released"], ["succeeded"]]
    nothing_left_in_the_broker(fleet)
    assert fleet.errors() == []


def test_open_attempts_of_an_earlier_life_are_judged_though_nobody_records_any_more(
    fleet: Fleet, recorded: Worker, plain: Worker
) -> None:
    """Killed with its recorder, while it is being uninstalled everywhere."""
    consume(fleet, recorded)
    sent = fleet.send("late", "earlier", "earlier")
    wait_for("it runs", lambda: fleet.attempts(sent.id) == [(1, "running")])
    os.kill(recorded.recorder(), signal.SIGKILL)
    recorded.kill()
    fleet.workers.remove(recorded)
    consume(fleet, plain)
    assert "recorded@test" in [one["hostname"] for one in crisper(fleet, "sweep")["declared"]]
    assert fleet.attempts(sent.id) == [(1, "lost")]
    assert state_of(fleet, sent.id) == "recovering"
    (fleet.folder / "earlier").touch()
