"""Controls: what plain Celery does where a law of ours says otherwise (docs/safety.md, "Complaints").

Each names the complaint that it shows. They tell nothing about Crisper, so `make slow` runs them.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery import chord

from tests.acceptance.conftest import broker_urls
from tests.acceptance.watching import messages_left
from tests.fleet import Fleet, wait_for

pytestmark = pytest.mark.slow

#: Longer than Crisper needs for any of it.
LONG_ENOUGH = 6.0


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def plain(broker: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    backend = broker_urls("redis", request)["backend"]
    made = Fleet(tmp_path, **{"backend": backend, **broker_urls(broker, request)}, plain=True)
    yield made
    made.close()


@pytest.fixture
def on_redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path, **broker_urls("redis", request), plain=True)
    yield made
    made.close()


def for_long(condition: Callable[[], bool]) -> bool:
    """Whether it holds all the time."""
    until = time.monotonic() + LONG_ENOUGH
    while time.monotonic() < until:
        if not condition():
            return False
        time.sleep(0.1)
    return True


def test_a_task_that_kills_its_process_is_started_without_end(plain: Fleet) -> None:
    """celery #9082, #8610: `reject_on_worker_lost` has no limit."""
    plain.worker("one")
    sent = plain.send("poison_rejecting", "x").id
    wait_for("it starts again and again", lambda: len(plain.starts(sent)) > 10, 40)


def test_a_killed_workers_task_is_gone_by_default(plain: Fleet) -> None:
    worker = plain.worker("one")
    sent = plain.send("early", "x", 1).id
    wait_for("it runs", lambda: plain.starts(sent))
    worker.kill()
    plain.worker("two")
    assert for_long(lambda: not plain.ends(sent))
    assert messages_left(plain) == (0, 0)


def test_a_chord_waits_for_ever_for_a_member_that_was_killed(plain: Fleet) -> None:
    """celery #2911, #4207: with Celery's default, acknowledged early."""
    worker = plain.worker("one")
    tasks = plain.app.tasks
    members = [tasks["tests.fleet_app.early"].s(n, 1) for n in range(2)]
    result = chord(members)(tasks["tests.fleet_app.total"].s())
    wait_for("both run", lambda: len(plain.starts()) == 2)
    worker.kill()
    plain.worker("two")
    assert for_long(lambda: not result.ready())


def test_a_killed_workers_late_acknowledged_chord_member_waits_for_the_visibility_timeout(
    on_redis: Fleet,
) -> None:
    """celery #6932: an hour, by default."""
    worker = on_redis.worker("one")
    tasks = on_redis.app.tasks
    members = [tasks["tests.fleet_app.late"].s(n, 1) for n in range(2)]
    result = chord(members)(tasks["tests.fleet_app.total"].s())
    wait_for("both run", lambda: len(on_redis.starts()) == 2)
    worker.kill()
    on_redis.worker("two")
    assert for_long(lambda: not result.ready())
    assert messages_left(on_redis) == (0, 2)


def test_what_redis_has_just_handed_to_a_worker_that_ends_is_gone(on_redis: Fleet) -> None:
    """celery #4354, #7950: it is in no queue, and not in `unacked` yet."""
    worker = on_redis.worker("one")
    worker.send_signal(signal.SIGSTOP)
    sent = on_redis.send("late", "x", 0).id
    wait_for("it was handed over", lambda: messages_left(on_redis) == (0, 0))
    worker.kill()
    on_redis.worker("two")
    assert for_long(lambda: not on_redis.starts(sent))


def test_a_lost_connection_runs_what_is_running_once_more(
    plain: Fleet, broker: str, request: pytest.FixtureRequest
) -> None:
    """celery #3430, #4426, #3802: its acknowledgement belongs to the connection that is gone."""
    plain.worker("one")
    sent = plain.send("late", "x", 2).id
    wait_for("it runs", lambda: plain.starts(sent))
    cut(plain, broker, request)
    wait_for("it ends twice", lambda: plain.run_twice() == [sent], 30)


def cut(fleet: Fleet, broker: str, request: pytest.FixtureRequest) -> None:
    url = fleet.environment["FLEET_BROKER"]
    if broker == "redis":
        with redis.Redis.from_url(url) as client:
            client.client_kill_filter(_type="normal", skipme=True)
    else:
        server = request.getfixturevalue("rabbitmq_server")
        server.ctl("close_all_connections", "--vhost", url.rpartition("/")[2], "a test")


def test_a_revoke_while_no_worker_is_up_is_forgotten(plain: Fleet) -> None:
    """celery #8888."""
    sent = plain.send("late", "x", 0)
    sent.revoke()
    plain.worker("one")
    wait_for("it runs", lambda: plain.ends(sent.id))


def test_an_id_that_was_revoked_once_never_runs_again(plain: Fleet) -> None:
    """celery #4168: not even when it is sent again on purpose."""
    plain.worker("one")
    plain.app.control.revoke("x", reply=True, timeout=5)
    wait_for(
        "it is known",
        lambda: "x" in json.dumps(plain.app.control.inspect(timeout=2).revoked() or {}),
    )
    plain.send("late", "x", 0, task_id="x")
    assert for_long(lambda: not plain.starts("x"))
