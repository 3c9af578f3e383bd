"""A message that was published, never claimed, and is nowhere in the broker is found and sent again, once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from amqp.exceptions import ChannelError
from kombu import Connection, Exchange
from kombu.exceptions import OperationalError
from kombu.utils.encoding import str_to_bytes

from crisper.core.message import Kept, unpack
from crisper.core.model import Message
from tests.acceptance.watching import events, messages_left, nothing_left_in_the_broker
from tests.celery.conftest import module_urls
from tests.fleet import Fleet, wait_for

GRACE = 1.0  # seconds


@pytest.fixture(scope="module")
def fleet(
    broker: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    made = Fleet(
        tmp_path_factory.mktemp(broker), **module_urls(broker, request),
        redelivery_grace=GRACE, sweep_interval=0.2, track_publish="async",
    )  # fmt: skip
    made.app.conf.update(crisper_track_publish="async", crisper_redelivery_grace=GRACE)
    yield made
    made.close()


@pytest.fixture
def worker(fleet: Fleet, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """A worker whose two slots and prefetch are free."""
    (fleet.folder / "open").unlink(missing_ok=True)
    fleet.worker("one", FLEET_PREFETCH="1")
    failed = request.session.testsfailed
    yield fleet
    if request.session.testsfailed > failed:
        print(fleet.story())
    (fleet.folder / "open").touch()
    workers, fleet.workers = fleet.workers, []
    for one in workers:
        assert one.stop() == 0
    nothing_left_in_the_broker(fleet)
    assert fleet.open_attempts() == 0
    assert not [line for one in workers for line in one.text().splitlines() if "internal error" in line]


@pytest.fixture
def take_away(fleet: Fleet, broker: str) -> Callable[[str], int]:
    """Take everything out of a queue, as a worker that dies before it has written down what it took."""

    def take(queue: str) -> int:
        if broker == "redis":
            with redis.Redis.from_url(fleet.environment["FLEET_BROKER"]) as client:
                return len(client.lpop(queue, 1000) or ())
        with Connection(fleet.environment["FLEET_BROKER"]) as connection:
            return int(connection.default_channel.queue_purge(queue))

    return take


def on_record(fleet: Fleet, ids: list[str]) -> bool:
    noted = {id for (id,) in fleet.rows("SELECT task_id FROM crisper_publish")}
    return set(ids) <= noted


def busy(fleet: Fleet) -> list[str]:
    """Tasks in both slots, and none is prefetched, until the test makes the file `open`."""
    ids = [fleet.send("late", f"busy-{n}", "open").id for n in range(2)]
    wait_for("claimed", lambda: all(fleet.attempts(id) for id in ids))
    return ids


def ran_once_as_the_second_attempt(fleet: Fleet, ids: list[str]) -> None:
    wait_for("they ran", lambda: all(fleet.attempts(id)[-1:] == [(2, "succeeded")] for id in ids), 30)
    for id in ids:
        assert fleet.recoveries(id) == [(1, "done", "resend")]
        assert len(fleet.starts(id)) == 1


def test_what_vanished_is_sent_again_once_and_what_waits_is_left_alone(
    worker: Fleet, take_away: Callable[[str], int]
) -> None:
    first = busy(worker)
    vanished = [worker.send("late", n, 0).id for n in range(20)]
    wait_for("noted", lambda: on_record(worker, vanished))
    assert take_away("celery") == 20
    wait_for("one is found", lambda: {id for id, _ in events(worker, "vanished")} & set(vanished), 30)
    waiting = worker.send("late", "waits", 0).id
    (worker.folder / "open").touch()
    ran_once_as_the_second_attempt(worker, vanished)
    for id in [*first, waiting]:
        wait_for("it ran", lambda id=id: worker.attempts(id) == [(1, "succeeded")])


def test_what_waits_for_long_has_not_vanished(worker: Fleet) -> None:
    busy(worker)
    waiting = worker.send("late", "waits", 0).id
    later = worker.send("late", "later", 0, countdown=4 * GRACE).id
    wait_for("it was looked for twice", lambda: looked_for(worker, waiting) > 2 * GRACE * 1000, 30)
    assert not {waiting, later} & {id for id, _ in events(worker, "vanished")}
    (worker.folder / "open").touch()
    for id in (waiting, later):
        wait_for("it ran", lambda id=id: worker.attempts(id) == [(1, "succeeded")])


def looked_for(fleet: Fleet, task_id: str) -> int:
    """How much later than at first the message is due, in ms."""
    rows = fleet.rows("SELECT due_at - published_at FROM crisper_publish WHERE task_id = ?", task_id)
    return int(rows[0][0]) if rows else 0


def test_what_a_task_publishes_is_on_record_however_large_it_is(
    worker: Fleet, take_away: Callable[[str], int]
) -> None:
    """From a pool process, which speaks to no database."""
    large = "x" * 300_000
    sent = worker.send("forward", "aside", large).id
    wait_for("it ran", lambda: worker.attempts(sent) == [(1, "succeeded")])
    [inner] = wait_for(
        "noted", lambda: worker.rows("SELECT task_id FROM crisper_publish WHERE queue = 'aside'")
    )
    assert take_away("aside") == 1
    worker.worker("aside", "-Q", "aside")
    wait_for("it ran", lambda: worker.attempts(inner[0]) == [(1, "lost"), (2, "succeeded")], 30)
    assert [line.key for line in worker.ends(inner[0])] == [str(len(large))]


def test_what_vanishes_again_is_held_with_its_message_for_a_person(
    worker: Fleet, take_away: Callable[[str], int]
) -> None:
    sent = worker.send("late", "nowhere", 0, queue="nobody").id
    wait_for("noted", lambda: on_record(worker, [sent]))
    for times in (1, 2):
        assert take_away("nobody") == 1
        wait_for("found", lambda times=times: len(worker.recoveries(sent)) == times, 30)
        if times == 1:
            wait_for("sent again", lambda: queued(worker, "nobody") == 1)
    wait_for("held", lambda: worker.recoveries(sent)[-1] == (2, "held", "hold"))
    assert worker.rows("SELECT count(*) FROM crisper_publish WHERE task_id = ?", sent) == [(0,)]


def queued(fleet: Fleet, queue: str) -> int:
    with Connection(fleet.environment["FLEET_BROKER"]) as connection, contextlib.suppress(ChannelError):
        return int(connection.default_channel.queue_declare(queue, passive=True).message_count)
    return 0  # Redis knows an empty queue only by its bindings


def test_a_queue_that_a_node_without_a_record_consumes_from_is_not_judged(
    worker: Fleet, take_away: Callable[[str], int]
) -> None:
    """What is not in its queue may run there."""
    worker.worker("plain", "-Q", "mixed", FLEET_PLAIN="1")
    there = worker.send("late", "open", "open", queue="mixed").id
    wait_for("it runs", lambda: worker.starts(there))
    wait_for("it was looked for twice", lambda: looked_for(worker, there) > 2 * GRACE * 1000, 30)
    (worker.folder / "open").touch()
    wait_for("it ended", lambda: worker.ends(there))
    assert worker.recoveries(there) == []
    worker.rows("DELETE FROM crisper_publish WHERE task_id = ? RETURNING task_id", there)


def test_what_the_broker_forgets_or_cannot_route_is_sent_again(worker: Fleet, broker: str) -> None:
    """A Redis that is flushed, or comes back empty; an exchange of RabbitMQ that leads nowhere."""
    first = busy(worker)
    if broker == "redis":
        forgotten = [worker.send("late", n, 0).id for n in range(10)]
        wait_for("noted", lambda: on_record(worker, forgotten))
        with redis.Redis.from_url(worker.environment["FLEET_BROKER"]) as client:
            client.flushdb()
    else:
        unbound = Exchange("unbound", "direct")
        with Connection(worker.environment["FLEET_BROKER"]) as connection:
            unbound.bind(connection.default_channel).declare()
        forgotten = [worker.send("late", n, 0, exchange=unbound, routing_key="celery").id for n in range(10)]
    (worker.folder / "open").touch()
    ran_once_as_the_second_attempt(worker, forgotten)
    assert all(worker.attempts(id) == [(1, "succeeded")] for id in first)


def test_a_publish_that_fails_leaves_no_record_and_one_without_a_registry_fails_nothing(
    fleet: Fleet, broker: str
) -> None:
    synchronous = fleet._client()
    synchronous.conf.update(crisper_track_publish="sync", crisper_redelivery_grace=3600)
    task = synchronous.tasks["tests.fleet_app.late"]
    sent = task.apply_async((1, 0), queue="sync").id
    assert on_record(fleet, [sent]), "before the message left"
    synchronous.conf.broker_url = "redis://127.0.0.1:1/0" if broker == "redis" else "amqp://127.0.0.1:1//"
    failing = fleet._client()
    failing.conf.update(
        crisper_track_publish="sync", broker_url=synchronous.conf.broker_url, task_publish_retry=False
    )
    with pytest.raises(OperationalError):
        failing.tasks["tests.fleet_app.late"].apply_async((1, 0), task_id="not sent", queue="sync")
    assert not on_record(fleet, ["not sent"])
    blind = fleet._client()
    blind.conf.update(crisper_track_publish="sync", crisper_registry_url="postgresql://127.0.0.1:1/none")
    assert blind.tasks["tests.fleet_app.late"].apply_async((1, 0), queue="sync").id
    assert messages_left(fleet) == (0, 0)
    fleet.rows("DELETE FROM crisper_publish RETURNING task_id")


def test_what_is_noted_is_what_left_in_every_serialization(worker: Fleet) -> None:
    """Compared with what the worker received and keeps for sending it again."""
    options: list[dict[str, Any]] = [
        {"serializer": "pickle"}, {"serializer": "yaml", "priority": 3}, {"compression": "gzip"}
    ]  # fmt: skip
    ids = [worker.send("late", "x" * 2000, "open", queue="kept", **option).id for option in options]
    wait_for("noted", lambda: on_record(worker, ids))
    noted = {id: kept(worker, "publish", id) for id in ids}
    worker.worker("kept", "-Q", "kept", FLEET_ACCEPT="json,pickle,yaml", C_FORCE_ROOT="1")
    for id in ids:
        wait_for("claimed", lambda id=id: worker.attempts(id))
        received = kept(worker, "attempt", id)
        assert str_to_bytes(received.body) == str_to_bytes(noted[id].body)
        assert received._replace(body="", properties={}) == noted[id]._replace(body="", properties={})
        assert received.properties["correlation_id"] == noted[id].properties["correlation_id"] == id
        assert (received.properties.get("priority") or 0) == (noted[id].properties.get("priority") or 0)


def kept(fleet: Fleet, table: str, task_id: str) -> Kept:
    sql = f"SELECT body, envelope, message_size FROM crisper_{table} WHERE task_id = ?"
    [(body, envelope, size)] = fleet.rows(sql, task_id)
    return unpack(Message(bytes(body), envelope, size))
