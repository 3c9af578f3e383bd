"""The broker is restarted in a sweep or a recovery, or a publish is cut off: each task comes back once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.harm import harm_to
from tests.acceptance.random_kills import Kill
from tests.acceptance.site import QUICK, Site, site
from tests.acceptance.test_broker_outage import durable_redis
from tests.faults.cuts import Cut
from tests.faults.postgres import FaultyPostgres
from tests.fleet import Worker, wait_for
from tests.left_out import needs
from tests.servers import PrivateRabbitMQ, PrivateRedis, PrivateServer

pytestmark = pytest.mark.timeout(180)


# RabbitMQ takes 10 s to be made and 5 s to start again.
@pytest.fixture(params=["redis", pytest.param("rabbitmq", marks=pytest.mark.slow)])
def broker(request: pytest.FixtureRequest) -> Iterator[PrivateServer]:
    """It keeps its messages over a restart."""
    with needs(request.param), PrivateRabbitMQ() if request.param == "rabbitmq" else durable_redis() as made:
        yield made


#: What is said to the broker in a publish, and nowhere else.
PUBLISHED = {"redis": "LPUSH", "rabbitmq": "tests.fleet_app.early_resend"}
#: A recovery that takes long enough to be interrupted.
SLOWLY = {**QUICK, "redelivery_grace": 2, "recovery_rate": 5}


@pytest.fixture
def place(broker: PrivateServer, tmp_path: Path) -> Iterator[Site]:
    with (
        needs("postgres"),
        needs("redis"),
        FaultyPostgres() as postgres,
        PrivateRedis() as results,
        site(tmp_path, postgres, broker=broker.url, backend=results.url, **SLOWLY) as made,
    ):
        yield made


def doomed(place: Site, *names: str, each: int) -> tuple[Worker, dict[str, float]]:
    """A worker with so many of each task in its hands; four run, the others are prefetched."""
    victim = place.fleet.worker("victim", "-c", "4", FLEET_PREFETCH="10")
    sent = {place.fleet.send(name, n, "open").id: time.time() for n in range(each) for name in names}
    wait_for("all in its hands", lambda: place.fleet.open_attempts() == len(sent))
    wait_for("four run", lambda: len(place.fleet.starts()) == 4)
    running = "SELECT count(*) FROM crisper_attempt WHERE state = 'running'"
    wait_for("on record", lambda: place.fleet.rows(running)[0][0] == 4)
    return victim, sent


def kill(place: Site, victim: Worker) -> Kill:
    """Parent and recorder: another worker's sweep finds it."""
    dead = frozenset([victim.pid, *victim.pool()])
    os.kill(victim.recorder(), signal.SIGKILL)
    at = victim.kill()
    (place.fleet.folder / "open").touch()
    return Kill(at, "both", dead)


def recovered(place: Site) -> int:
    """Of what the killed worker had. What another holds when the broker goes down has a recovery too."""
    done = "SELECT count(*) FROM crisper_recovery WHERE state = 'done' AND cause = 'worker'"
    return int(place.fleet.rows(done)[0][0])


@pytest.mark.parametrize("middle", ["sweep", "recovery"])
def test_a_broker_restarted_in_the_middle_brings_each_task_back_once(
    place: Site, broker: PrivateServer, middle: str
) -> None:
    victim, sent = doomed(place, "late", "early_resend", each=8)
    place.fleet.worker("second", FLEET_PREFETCH="1")
    killed = kill(place, victim)
    if middle == "recovery":
        wait_for("some are recovered", lambda: recovered(place) >= 3)
    began = time.monotonic()
    broker.stop()
    broker.start()
    away = time.monotonic() - began
    harm = harm_to(place.fleet, sent, [killed])
    print(f"broker restarted ({away:.1f} s) in the middle of a {middle}: {len(sent)} tasks; {harm}")
    assert not harm
    wait_for("all recovered", lambda: recovered(place) == len(sent))


@pytest.mark.parametrize("heard", [False, True])
@pytest.mark.parametrize("name", ["redis", "rabbitmq"])
def test_a_resend_whose_outcome_is_unknown_runs_once(
    name: str, heard: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Cut off before the broker heard of the message, or after."""
    urls = {"backend": "", **broker_urls(name, request)}
    with needs("postgres"), FaultyPostgres() as postgres, site(tmp_path, postgres, **urls, **SLOWLY) as place:
        victim, sent = doomed(place, "early_resend", each=4)
        place.fleet.worker("second")
        cut = place.to_broker.cut(Cut(PUBLISHED[name], heard=heard))
        killed = kill(place, victim)
        wait_for("it was cut", lambda: cut.done == 1)
        harm = harm_to(place.fleet, sent, [killed])
        when = "after" if heard else "before"
        print(f"a publish to {name} cut off {when} it was heard: {len(sent)} tasks; {harm}")
        assert not harm
        for id in sent:
            assert place.fleet.attempts(id) == [(1, "lost"), (2, "succeeded")]
