"""Redis: what a live worker holds is nobody else's, however short the visibility timeout; what nobody
holds any more goes back."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator

import pytest
import redis

from tests.acceptance.conftest import broker_urls
from tests.acceptance.watching import events, nothing_left_in_the_broker
from tests.celery.copies import refusals, refused
from tests.fleet import Fleet, wait_for

TIMEOUT = 2  # of visibility, in seconds
SHORT = {"FLEET_VISIBILITY": str(TIMEOUT)}


@pytest.fixture
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    made = Fleet(tmp_path_factory.mktemp("redis"), **broker_urls("redis", request), heartbeat_interval=1)
    yield made
    made.close()


@pytest.fixture
def server(fleet: Fleet) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(fleet.environment["FLEET_BROKER"]) as client:
        yield client


def hold_for_long(fleet: Fleet) -> list[str]:
    """A running task, one that waits behind it and one whose time has not come, for four timeouts,
    with another worker to take them, which looks as it starts; the ids, once all have ended."""
    fleet.worker("holder", "-c", "1", **SHORT)
    ids = [fleet.send("late", "running", 4 * TIMEOUT).id, fleet.send("late", "waiting", 0).id]
    ids.append(fleet.send("late", "later", 0, countdown=4 * TIMEOUT).id)
    with redis.Redis.from_url(fleet.environment["FLEET_BROKER"]) as client:
        wait_for("the holder has all three", lambda: client.hlen("unacked") == 3)
    had_at = time.monotonic()
    wait_for("the timeout is over", lambda: time.monotonic() > had_at + TIMEOUT)
    fleet.worker("other", **SHORT)
    wait_for("all ended", lambda: {line.task_id for line in fleet.ends()} == set(ids))
    return ids


def test_what_a_live_worker_holds_is_delivered_once_however_long_it_is_held(fleet: Fleet) -> None:
    ids = hold_for_long(fleet)
    nothing_left_in_the_broker(fleet)
    for id in ids:
        assert len(fleet.starts(id)) == 1
        assert fleet.attempts(id) == [(1, "succeeded")]
        assert refusals(fleet, id) == [], "nobody was even offered it"
    assert events(fleet, "adopted") == []


@pytest.mark.slow
def test_plain_celery_delivers_it_again_to_whoever_asks(fleet: Fleet) -> None:
    """The control (celery #5935, kombu #337): it begins elsewhere while the first runs or waits."""
    fleet.environment["FLEET_PLAIN"] = "1"
    ids = hold_for_long(fleet)
    wait_for("one began twice", lambda: any(len(fleet.starts(id)) > 1 for id in ids))


def test_a_worker_that_stands_still_loses_what_it_held_by_its_lease_not_by_the_timeout(fleet: Fleet) -> None:
    quick = {"CRISPER_LEASE": "3", "CRISPER_SWEEP_INTERVAL": "0.2"}
    holder = fleet.worker("holder", "-c", "1", **quick)
    message = fleet.send("late", "one", 60)
    wait_for("it runs", lambda: fleet.attempts(message.id) == [(1, "running")])
    fleet.worker("other", **quick)
    holder.send_signal(signal.SIGSTOP)
    wait_for("it runs elsewhere", lambda: fleet.attempts(message.id) == [(1, "lost"), (2, "running")])


def entry_of(server: redis.Redis) -> bytes:
    """The only delivery that somebody holds."""
    [entry] = wait_for("held", lambda: server.hvals("unacked"))
    return entry


def leave(server: redis.Redis, entry: bytes, tag: str) -> None:
    """A delivery in nobody's hands."""
    server.hset("unacked", tag, entry)
    server.zadd("unacked_index", {tag: time.time() - 60})


def test_what_a_worker_had_finished_and_died_before_acknowledging_is_cleared_away(
    fleet: Fleet, server: redis.Redis
) -> None:
    fleet.worker("one")
    message = fleet.send("late", "one", 0.5)
    entry = entry_of(server)
    nothing_left_in_the_broker(fleet)
    leave(server, entry, json.loads(entry)[0]["properties"]["delivery_tag"])
    nothing_left_in_the_broker(fleet)
    assert refused(fleet, message.id) == ["finished: succeeded"]
    assert len(fleet.starts(message.id)) == 1


def test_what_nobody_has_on_record_is_left_to_the_timeout(fleet: Fleet, server: redis.Redis) -> None:
    """It may be in the hands of a worker without Crisper."""
    fleet.worker("one")
    message = fleet.send("late", "one", 0.5)
    entry = entry_of(server)
    nothing_left_in_the_broker(fleet)
    payload, exchange, routing_key = json.loads(entry)
    payload["headers"]["id"] = "unknown"
    leave(server, json.dumps([payload, exchange, routing_key]).encode(), "a tag")
    leave(server, b"no message at all", "another tag")
    leave(server, entry, "known")
    refused(fleet, message.id)
    left = {b"a tag", b"another tag"}
    wait_for("the copy is acknowledged", lambda: set(server.hkeys("unacked")) == left)
    server.delete("unacked", "unacked_index")


def test_a_dead_workers_messages_come_back_under_a_global_key_prefix_and_with_priorities(
    fleet: Fleet, server: redis.Redis
) -> None:
    options = {"global_keyprefix": "mine:", "priority_steps": [0, 3, 6], "queue_order_strategy": "priority"}
    fleet.environment["FLEET_CONF"] = json.dumps({"broker_transport_options": options})
    fleet.app.conf.broker_transport_options = options
    holder = fleet.worker("holder", "-c", "1")
    ids = [fleet.send("late", key, "open", priority=key).id for key in (0, 3, 6)]
    wait_for("all claimed", lambda: fleet.open_attempts() == 3)
    fleet.worker("other", "-c", "3")
    holder.kill()
    wait_for("all run elsewhere", lambda: all(fleet.attempts(id)[-1] == (2, "running") for id in ids))
    (fleet.folder / "open").touch()
    assert [verdict for id in ids for _, _, verdict in fleet.recoveries(id)] == ["hand_back"] * 3
    wait_for("all ended", lambda: all(fleet.attempts(id)[-1] == (2, "succeeded") for id in ids))
    wait_for("acknowledged", lambda: server.hlen("mine:unacked") == 0)
    ours = (b"mine:", b"_kombu", b"unacked_index.crisper")  # the last: whose turn it is to look, for 3.6 s
    assert [key for key in server.scan_iter() if not key.startswith(ours)] == []
