"""RabbitMQ in its corners: quorum queues, delivery limits, `consumer_timeout`, a hung host's connection."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Exchange, Queue

from crisper.celery.brokers.amqp import server_version
from crisper.celery.brokers.management import DEADLINE_SECONDS, Management, ManagementTrouble
from crisper.celery.brokers.rules import Rules, rules_of
from crisper.celery.node import process_of
from tests.acceptance.watching import losses, nothing_left_in_the_broker
from tests.celery.copies import publish, publish_copy, refused
from tests.fleet import Fleet, wait_for
from tests.left_out import needs
from tests.places import unique_name
from tests.servers import PrivateRabbitMQ

QUICK = {"lease": 3, "heartbeat_interval": 0.5, "sweep_interval": 0.2}

Make = Callable[..., Fleet]


@pytest.fixture(scope="module")
def node() -> Iterator[PrivateRabbitMQ]:
    """With the management API, and looking every half second for deliveries held too long."""
    with needs("rabbitmq"), PrivateRabbitMQ(management=True, channel_tick_interval="500") as server:
        yield server


@pytest.fixture
def make(node: PrivateRabbitMQ, tmp_path: Path) -> Iterator[Make]:
    """A fleet on an empty virtual host; `conf` is for Celery, the rest are Crisper's settings."""
    made: list[Fleet] = []

    def one(conf: dict[str, Any] | None = None, **settings: Any) -> Fleet:
        vhost = unique_name()
        node.ctl("add_vhost", vhost)
        node.ctl("set_permissions", "-p", vhost, "guest", ".*", ".*", ".*")
        fleet = Fleet(tmp_path, broker=node.url_of(vhost), **settings)
        fleet.environment["FLEET_CONF"] = json.dumps(conf or {})
        fleet.app.close()
        fleet.app = fleet._client()
        made.append(fleet)
        return fleet

    yield one
    for fleet in made:
        fleet.close()
        node.ctl("delete_vhost", vhost_of(fleet))


def vhost_of(fleet: Fleet) -> str:
    return fleet.environment["FLEET_BROKER"].rpartition("/")[2]


def succeeded(fleet: Fleet, task_id: str) -> bool:
    return [state for _, state in fleet.attempts(task_id)][-1:] == ["succeeded"]


def process(fleet: Fleet, name: str) -> str:
    sql = "SELECT id FROM crisper_incarnation WHERE hostname = ? AND state = 'alive'"
    return process_of(str(fleet.rows(sql, f"{name}@test")[0][0]))


def queue_with(name: str = "celery", **arguments: Any) -> dict[str, Any]:
    """A queue as Celery's `task_queues` takes it, declared with these arguments."""
    given = {"x-" + key.replace("_", "-"): value for key, value in arguments.items()}
    return {name: {"exchange": name, "routing_key": name, "queue_arguments": given}}


# -- a host that hangs -------------------------------------------------------------------------------


def test_a_hung_hosts_connection_is_closed_and_its_message_comes_back_at_once(
    node: PrivateRabbitMQ, make: Make
) -> None:
    """Its socket is open, and RabbitMQ's heartbeat would give it four minutes; the grace is as long."""
    fleet = make(**QUICK, redelivery_grace=240, rabbitmq_management_url=node.management_url)
    hung = fleet.worker("hung", "-c", "1", FLEET_PREFETCH="1")
    sent = fleet.send("late", 1, "open")
    wait_for("it runs", lambda: fleet.attempts(sent.id) == [(1, "running")])
    api = Management(node.management_url, vhost_of(fleet))
    other = fleet.worker("other", "-c", "1")
    mine, others = process(fleet, "hung"), process(fleet, "other")
    [its] = wait_for("RabbitMQ shows whose connection it is", lambda: api.connections_of(mine))
    [another] = wait_for("and the other's", lambda: api.connections_of(others))
    hung.send_signal(signal.SIGSTOP)
    wait_for("it runs elsewhere", lambda: fleet.attempts(sent.id) == [(1, "lost"), (2, "running")])
    assert fleet.recoveries(sent.id) == [(1, "done", "await_redelivery")]
    assert its in other.text()

    hung.send_signal(signal.SIGCONT)
    wait_for("a new incarnation", lambda: fleet.incarnations()["hung"] == ["lost", "alive"])
    wait_for("by a connection of its own", lambda: api.connections_of(mine) not in ([], [its]))
    assert process(fleet, "hung") == mine
    assert api.connections_of(others) == [another]
    (fleet.folder / "open").touch()
    wait_for("it ends", lambda: succeeded(fleet, sent.id))
    nothing_left_in_the_broker(fleet)
    assert losses(fleet) == 1
    assert fleet.errors() == []
    assert not any("guest:guest@127" in worker.text() for worker in fleet.workers)


@pytest.mark.slow
def test_an_api_that_refuses_leaves_the_message_to_the_grace(node: PrivateRabbitMQ, make: Make) -> None:
    address = node.management_url.replace("guest:guest", "guest:wrong-secret")
    fleet = make(**QUICK, redelivery_grace=1, rabbitmq_management_url=address)
    hung = fleet.worker("hung", "-c", "1", FLEET_PREFETCH="1")  # no room to be sent it again
    sent = fleet.send("late", 1, "open")
    wait_for("it runs", lambda: fleet.attempts(sent.id) == [(1, "running")])
    other = fleet.worker("other", "-c", "1")
    hung.send_signal(signal.SIGSTOP)
    wait_for("re-sent", lambda: fleet.recoveries(sent.id) == [(1, "done", "resend")])
    (fleet.folder / "open").touch()
    wait_for("it ends", lambda: succeeded(fleet, sent.id))
    assert "left to RabbitMQ" in other.text()
    assert "check crisper_rabbitmq_management_url" in other.text()
    assert "wrong-secret" not in other.text() + hung.text()
    assert fleet.errors() == []


def test_an_api_that_does_not_answer_is_given_up_in_seconds_and_its_password_told_to_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts, and says nothing
        for port in (silent.getsockname()[1], 1):
            began = time.monotonic()
            with pytest.raises(ManagementTrouble) as raised:
                Management(f"http://me:a-secret@127.0.0.1:{port}", "/").queue("celery")
            assert time.monotonic() - began < DEADLINE_SECONDS + 2
            assert "check crisper_rabbitmq_management_url" in str(raised.value)
            assert "a-secret" not in str(raised.value)


# -- a delivery that is held for too long ------------------------------------------------------------


def test_whatever_is_held_for_most_of_consumer_timeout_is_warned_of_once(make: Make) -> None:
    """This RabbitMQ does not know the argument yet (3.12 does), so nothing strikes here."""
    fleet = make({"task_queues": queue_with(consumer_timeout=2000)})
    worker = fleet.worker("one", "-c", "1")
    running = publish(fleet, "late", "running", "open").id
    wait_for("it runs", lambda: fleet.attempts(running) == [(1, "running")])
    waiting = fleet.send("late", "waiting", 0).id
    later = fleet.send("late", "later", 0, countdown=600).id

    def warnings() -> list[str]:
        return [line for line in worker.text().splitlines() if "consumer_timeout" in line]

    wait_for("three warnings", lambda: len(warnings()) == 3)
    for id, why in (
        (running, "it runs."),
        (waiting, "it waits for a free process."),
        (later, "it waits for its ETA."),
    ):
        [line] = [line for line in warnings() if id in line]
        assert why in line
        assert "WARNING" in line
        assert "tests.fleet_app.late" in line
        assert "consumer_timeout, 2 s here," in line
        assert "Set x-consumer-timeout of the queue 'celery'" in line
    (fleet.folder / "open").touch()
    wait_for("both end", lambda: succeeded(fleet, running) and succeeded(fleet, waiting))
    short = fleet.send("late", "short", 0.1)
    wait_for("it ends", lambda: succeeded(fleet, short.id))
    assert len(warnings()) == 3
    assert fleet.errors() == []


@pytest.mark.parametrize("retried", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_task_that_outlives_consumer_timeout_runs_once(
    node: PrivateRabbitMQ, make: Make, retried: bool
) -> None:
    """RabbitMQ closes the channel and redelivers. Celery connects anew, or ends, as it is told."""
    node.ctl("eval", "application:set_env(rabbit, consumer_timeout, 2000).")
    fleet = make({"broker_channel_error_retry": retried})
    try:
        worker = fleet.worker("one", "-c", "1")
        sent = fleet.send("late", 1, "open")
        wait_for("it runs", lambda: fleet.attempts(sent.id) == [(1, "running")])
        wait_for("it strikes", lambda: "PRECONDITION_FAILED" in worker.text())
    finally:
        node.ctl("eval", "application:set_env(rabbit, consumer_timeout, 1800000).")
    if retried:
        wait_for("given again", lambda: worker.text().count(f"[{sent.id}] received") >= 2)
    else:
        fleet.worker("other", "-c", "1")
    (fleet.folder / "open").touch()
    wait_for("it ends", lambda: succeeded(fleet, sent.id))
    assert fleet.attempts(sent.id) == [(1, "succeeded")]
    nothing_left_in_the_broker(fleet)
    after = fleet.send("noop", 1)
    wait_for("work goes on", lambda: succeeded(fleet, after.id))
    assert len(fleet.starts(sent.id)) == 1


# -- quorum queues -----------------------------------------------------------------------------------

#: Celery delays tasks in RabbitMQ itself where the exchange is a topic.
QUORUM = {"task_default_queue_type": "quorum", "task_default_exchange_type": "topic"}


def test_a_killed_workers_tasks_come_back_on_a_quorum_queue_and_an_eta_is_kept(make: Make) -> None:
    fleet = make(QUORUM)
    killed = fleet.worker("killed", FLEET_PREFETCH="2")
    delayed = fleet.send("late", "delayed", "open", countdown=1).id
    wait_for("it runs, delayed", lambda: fleet.attempts(delayed) == [(1, "running")])
    sent = [delayed, *(fleet.send("late", key, "open").id for key in range(3))]
    wait_for("all claimed", lambda: fleet.open_attempts() == 4)
    at = time.time() + 4
    later = fleet.send("late", "later", 0, countdown=4).id
    fleet.worker("other", "-c", "4")
    killed.kill()
    wait_for("all run elsewhere", lambda: all(fleet.attempts(id)[-1] == (2, "running") for id in sent))
    (fleet.folder / "open").touch()
    wait_for("all end", lambda: all(succeeded(fleet, id) for id in [*sent, later]))
    assert fleet.run_twice() == []
    assert fleet.attempts(later) == [(1, "succeeded")]
    sql = "SELECT received_at / 1000.0 FROM crisper_attempt WHERE task_id = ?"
    assert fleet.rows(sql, later)[0][0] >= at - 1, "RabbitMQ keeps it until its time, in whole seconds"
    nothing_left_in_the_broker(fleet)
    assert fleet.errors() == []


def test_what_is_parked_leaves_room_on_a_quorum_queue_too(make: Make) -> None:
    """The prefetch of a consumer of a quorum queue cannot be raised."""
    queues = {**queue_with(queue_type="quorum"), **queue_with("other", queue_type="quorum")}
    fleet = make({"task_queues": queues}, max_message_bytes=0)
    fleet.worker("holder", "-c", "1", "-Q", "celery")
    other = fleet.worker("other", "-c", "1", "-Q", "other", FLEET_PREFETCH="2")
    message = publish(fleet, "late", 1, "open")
    wait_for("it runs", lambda: fleet.attempts(message.id) == [(1, "running")])
    for times in (2, 4, 5):
        while other.text().count(f"[{message.id}] received") < times:
            had = other.text().count(f"[{message.id}] received")
            publish_copy(fleet, message, queue="other")
            wait_for("received", lambda had=had: other.text().count(f"[{message.id}] received") > had)
        after = fleet.send("noop", times, queue="other")
        wait_for("another task passes", lambda id=after.id: succeeded(fleet, id))
    (fleet.folder / "open").touch()
    refused(fleet, message.id, 5)
    assert fleet.attempts(message.id) == [(1, "succeeded")]
    nothing_left_in_the_broker(fleet)
    assert fleet.errors() == []


# -- delivery limits ---------------------------------------------------------------------------------


def dead_letters(fleet: Fleet) -> Queue:
    """The queue where the exchange `dead` leads to."""
    queue = Queue("dead", Exchange("dead", "fanout"))
    with Connection(fleet.environment["FLEET_BROKER"]) as connection:
        queue(connection.default_channel).declare()
    return queue


def dead_letter(fleet: Fleet, queue: Queue) -> Any:
    """The next message in it, acknowledged; None if there is none."""
    with Connection(fleet.environment["FLEET_BROKER"]) as connection:
        return queue(connection.default_channel).get(no_ack=True)


def why(fleet: Fleet, task_id: str, number: int) -> tuple[str, dict[str, Any]]:
    """Reason and evidence of a recovery."""
    sql = "SELECT reason, evidence FROM crisper_recovery WHERE task_id = ? AND number = ?"
    [(reason, evidence)] = fleet.rows(sql, task_id, number)
    return reason, json.loads(evidence)


@pytest.mark.slow
def test_over_its_delivery_limit_a_dead_letter_is_its_owners_and_what_was_dropped_is_sent_again(
    make: Make,
) -> None:
    owned_by = queue_with(queue_type="quorum", delivery_limit=1, dead_letter_exchange="dead")
    fleet = make(
        {"task_queues": {**owned_by, **queue_with("bare", queue_type="quorum", delivery_limit=0)}},
        redelivery_grace=1,
    )
    dead = dead_letters(fleet)
    fleet.worker("one")
    dropped = fleet.send("dies_once", "dropped", "_exit", queue="bare").id
    owned = fleet.send("poison", "owned").id
    wait_for("held", lambda: fleet.recoveries(owned)[1:] == [(2, "held", "hold")], 30)
    (fleet.folder / "cured").touch()
    assert fleet.attempts(owned) == [(1, "lost"), (2, "lost")]
    reason, evidence = why(fleet, owned, 2)
    assert reason.startswith("the broker dead-lettered it to dead: return number 2 is over")
    assert (evidence["delivery_count"], evidence["delivery_limit"]) == (1, 1)
    letter = wait_for("its dead letter", lambda: dead_letter(fleet, dead))
    assert letter.headers["x-death"][0]["reason"] == "delivery_limit"

    wait_for("sent again", lambda: fleet.recoveries(dropped) == [(1, "done", "resend")])
    assert why(fleet, dropped, 1)[0].startswith("the broker dropped it: return number 1 is over")
    wait_for("it runs again", lambda: succeeded(fleet, dropped))
    with fleet.app.producer_pool.acquire() as producer:  # its owner sends it back
        producer.publish(
            letter.body, exchange="", routing_key="celery", headers=letter.headers,
            content_type=letter.content_type, content_encoding=letter.content_encoding,
            correlation_id=letter.properties["correlation_id"],
        )  # fmt: skip
    wait_for("it runs", lambda: fleet.attempts(owned)[2:] == [(3, "succeeded")])
    nothing_left_in_the_broker(fleet)
    assert fleet.errors() == []


def test_what_a_shutdown_returns_once_too_often_is_sent_again(make: Make) -> None:
    """RabbitMQ drops it, and no attempt of it was lost."""
    queue = queue_with(queue_type="quorum", delivery_limit=0)
    fleet = make({"task_queues": queue}, redelivery_grace=1)
    first = fleet.worker("first", "-c", "1")
    running, waiting = fleet.send("late", "running", "open").id, fleet.send("late", "waiting", 0).id
    wait_for("it runs", lambda: fleet.attempts(running) == [(1, "running")])
    wait_for("it waits", lambda: fleet.attempts(waiting) == [(1, "claimed")])
    first.send_signal(signal.SIGTERM)
    wait_for("it shuts down", lambda: "Warm shutdown" in first.text())
    (fleet.folder / "open").touch()
    assert first.process.wait(30) == 0
    assert fleet.attempts(running) == [(1, "succeeded")]
    assert fleet.attempts(waiting) == [(1, "lost")]
    fleet.worker("next", "-c", "1")
    wait_for("it runs", lambda: fleet.attempts(waiting) == [(1, "lost"), (2, "succeeded")])
    assert why(fleet, waiting, 1)[0].startswith("the broker dropped it: return number 1 is over")
    nothing_left_in_the_broker(fleet)
    assert fleet.errors() == []


@pytest.mark.slow
def test_the_only_copy_of_a_held_task_is_not_put_back_until_the_limit_takes_it(make: Make) -> None:
    queue = queue_with(queue_type="quorum", delivery_limit=1, dead_letter_exchange="dead")
    fleet = make({"task_queues": queue}, max_message_bytes=0)
    dead = dead_letters(fleet)
    killed = fleet.worker("killed", "-c", "1")
    sent = fleet.send("late_hold", 1, "open").id
    wait_for("it runs", lambda: fleet.attempts(sent) == [(1, "running")])
    other = fleet.worker("other", "-c", "1", FLEET_PREFETCH="1")
    killed.kill()
    wait_for("it stays", lambda: f"delivery of {sent} stays here" in other.text())
    assert fleet.recoveries(sent) == [(1, "held", "hold")]
    for key in range(2):
        after = fleet.send("noop", key)
        wait_for("other tasks pass", lambda id=after.id: succeeded(fleet, id))
    assert dead_letter(fleet, dead) is None
    assert other.text().count(f"[{sent}] received") == 1
    with fleet.store() as store:
        assert store.discard(sent, by="a test", reason="enough")
    refused(fleet, sent)
    nothing_left_in_the_broker(fleet)
    assert dead_letter(fleet, dead) is None
    assert fleet.errors() == []


def test_a_queues_rules_are_those_of_its_arguments_and_its_policy_together(
    node: PrivateRabbitMQ, make: Make
) -> None:
    app = make({"task_queues": queue_with(queue_type="quorum", delivery_limit=3)}).app
    url = app.conf.broker_url
    with Connection(url) as connection:
        app.amqp.queues["celery"](connection.default_channel).declare()
        version = server_version(connection)
    assert version >= (3, 10)
    assert rules_of(app, "celery", version) == Rules(3, None, 1800)
    assert rules_of(app, "unknown", version) == Rules(None, None, 1800)
    assert rules_of(app, "unknown", (4, 0)).delivery_limit is None, "it may be a classic queue"
    definition = {"delivery-limit": 2, "dead-letter-exchange": "dead"}
    vhost = url.rpartition("/")[2]
    node.ctl("set_policy", "-p", vhost, "--apply-to", "queues", "mine", "^celery$", json.dumps(definition))
    api = Management(node.management_url, vhost)
    wait_for("as it is", lambda: rules_of(app, "celery", version, api) == Rules(2, "dead", 1800))
    del app.amqp.queues["celery"].queue_arguments["x-delivery-limit"]
    assert rules_of(app, "celery", (4, 0)).delivery_limit == 20
