"""What a courier brings back together comes back as each would by itself; what is wrong with one is told."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError

from crisper.celery.brokers import broker_of
from crisper.celery.brokers.base import Broker
from crisper.celery.brokers.redis import CALL_BYTES
from crisper.core.message import Kept
from crisper.core.model import Attempt, Recovery
from crisper.core.states import OnLost, RecoveryState, State
from crisper.core.verdict import InBroker
from crisper.settings import Settings
from tests.places import unique_name
from tests.servers import PrivateRedis

SEVERAL = 5


def app_on(url: str) -> Celery:
    app = Celery("together", broker=url, set_as_current=False)
    app.conf.task_default_queue = unique_name()
    return app


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """With an empty queue, the app's default one."""
    app = app_on(request.getfixturevalue(request.param))
    with closing(broker_of(app, Settings())) as made:
        queue_of(app)(made.connection.default_channel).declare()
        yield made


on_redis = pytest.mark.parametrize("broker", ["redis_url"], indirect=True)
on_rabbitmq = pytest.mark.parametrize("broker", ["rabbitmq_url"], indirect=True)
on_both = pytest.mark.parametrize("broker", ["redis_url", "rabbitmq_url"], indirect=True)


def queue_of(app: Celery) -> Any:
    return app.amqp.queues[app.conf.task_default_queue]


def message(key: str, body: str = "[]", **about: Any) -> Kept:
    headers = {"id": key, "task": "t", "traceparent": key}
    properties = {"correlation_id": key, "priority": 3, "delivery_mode": 2}
    return Kept(body, "application/json", "utf-8", headers, properties, "", about.get("queue", ""))


def attempt(broker: Broker, key: str, tag: str = "", queue: str | None = None) -> Attempt:
    named = broker.app.conf.task_default_queue if queue is None else queue
    return Attempt(
        key, 1, f"m-{key}", "t", named, "gone", 1, State.LOST, True, True, False, 0, tag, False, 1, 1,
        OnLost.RESEND, 3, 0, 0, None, None, None, True, None, 2, None,
    )  # fmt: skip


def loss(key: str) -> Recovery:
    return Recovery(
        key, 1, f"m-{key}", "t", "scope", RecoveryState.PENDING, 1, "worker", 1, None, None, {}, None, None,
        0, None, None, None, None,
    )  # fmt: skip


def received(broker: Broker) -> list[Any]:
    channel, queue = broker.connection.default_channel, broker.app.conf.task_default_queue
    return list(iter(lambda: channel.basic_get(queue, no_ack=True), None))


def looks(got: Any) -> tuple[Any, ...]:
    properties = {k: v for k, v in got.properties.items() if k not in ("delivery_tag", "delivery_info")}
    properties.pop("application_headers", None)
    return got.headers, properties, got.body, got.content_type, got.content_encoding


@on_both
def test_what_is_sent_together_is_what_would_be_sent_one_by_one(broker: Broker) -> None:
    keys = [f"task-{n}" for n in range(SEVERAL)]
    for key in keys:
        broker.resend(message(key), attempt(broker, key))
    one_by_one = received(broker)
    sent = broker.resend_all([(message(key), attempt(broker, key)) for key in keys])
    assert sent == [None] * SEVERAL
    assert list(map(looks, received(broker))) == list(map(looks, one_by_one))


@on_both
def test_one_that_cannot_be_sent_is_named_and_holds_up_none_of_the_others(broker: Broker) -> None:
    keys = [f"task-{n}" for n in range(SEVERAL)]
    messages = [(message(key), attempt(broker, key)) for key in keys]
    messages[2] = (message("task-2")._replace(headers={"id": object()}), attempt(broker, "task-2"))
    sent = broker.resend_all(messages)
    assert [why is None for why in sent] == [n != 2 for n in range(SEVERAL)]
    assert sorted(got.headers["id"] for got in received(broker)) == sorted(set(keys) - {"task-2"})


@on_rabbitmq
def test_an_exchange_that_is_not_there_is_told_of_its_own_message_only(broker: Broker) -> None:
    keys = [f"task-{n}" for n in range(SEVERAL)]
    messages = [(message(key), attempt(broker, key)) for key in keys]
    astray = message("task-2")._replace(exchange=unique_name())
    messages[2] = (astray, attempt(broker, "task-2", queue=""))
    sent = broker.resend_all(messages)
    assert [why is None for why in sent] == [n != 2 for n in range(SEVERAL)]
    assert "no exchange" in str(sent[2])
    # Of what was not confirmed by then there may be a copy, which the gate refuses.
    assert {got.headers["id"] for got in received(broker)} == set(keys) - {"task-2"}


def test_a_broker_that_is_away_is_tried_for_one_message_and_told_of_all() -> None:
    with PrivateRedis() as server:
        app = app_on(server.url)
        with closing(broker_of(app, Settings())) as broker:
            server.stop()
            began = time.monotonic()
            messages = [(message(f"task-{n}"), attempt(broker, f"task-{n}")) for n in range(200)]
            sent = broker.resend_all(messages)
            assert {type(why) for why in sent} == {OperationalError}
            assert time.monotonic() - began < 15


def held(broker: Broker, keys: list[str], body: str = "[]") -> list[Attempt]:
    """They were published, and received by somebody who holds them still."""
    for key in keys:
        broker.resend(message(key, body), attempt(broker, key))
    channel = broker.connection.default_channel
    got = [channel.basic_get(broker.app.conf.task_default_queue) for _ in keys]
    channel.qos._delivered.clear()  # it is dead: it gives nothing back itself
    return [attempt(broker, one.headers["id"], one.delivery_tag) for one in got]


def held_still(broker: Any, attempts: list[Attempt]) -> list[str]:
    """Other tests have deliveries on this server, too."""
    return [one.tag for one in attempts if broker.client.hexists(broker._unacked, one.tag)]


@on_redis
def test_what_is_handed_back_together_comes_back_but_for_what_moved_since_it_was_looked_at(
    broker: Any,
) -> None:
    attempts = held(broker, [f"task-{n}" for n in range(SEVERAL)])
    broker.look_ahead(attempts)
    broker.client.zadd(broker._index, {attempts[1].tag: 1.0})  # somebody keeps it
    broker.client.hdel(broker._unacked, attempts[3].tag)  # somebody acknowledged it
    assert broker.hand_back_all(attempts) == [n not in (1, 3) for n in range(SEVERAL)]
    back = received(broker)
    assert {got.headers["id"] for got in back} == {"task-0", "task-2", "task-4"}
    assert all(got.headers["redelivered"] for got in back)
    assert not {got.delivery_tag for got in back} & {one.tag for one in attempts}
    assert held_still(broker, attempts) == [attempts[1].tag]


@on_redis
def test_large_messages_are_handed_back_and_sent_in_several_calls(broker: Any) -> None:
    large, keys = json.dumps(["x" * (CALL_BYTES // 2)]), [f"task-{n}" for n in range(SEVERAL)]
    attempts = held(broker, keys, large)
    broker.look_ahead(attempts)
    before = calls(broker.client)
    assert broker.hand_back_all(attempts) == [True] * SEVERAL
    assert calls(broker.client) - before > 2
    assert len(received(broker)) == SEVERAL
    sent = broker.resend_all([(message(key, large), attempt(broker, key)) for key in keys])
    assert sent == [None] * SEVERAL
    assert [got.body.decode() for got in received(broker)] == [large] * SEVERAL


def calls(client: redis.Redis) -> int:
    told: Any = client.info("commandstats")
    return int(told["cmdstat_eval"]["calls"])


@on_redis
def test_each_is_found_where_it_is(broker: Any) -> None:
    attempts = held(broker, ["held"])
    broker.resend(message("waits"), attempt(broker, "waits"))
    attempts += [attempt(broker, key, f"tag of {key}") for key in ("waits", "gone")]
    broker.look_ahead(attempts)
    found = [broker.find(one, loss(one.task_id)) for one in attempts]
    assert found == [InBroker.UNACKED, InBroker.QUEUED, InBroker.GONE]
    broker.hand_back_all(attempts[:1])
    broker.look_ahead(attempts[:1])
    assert broker.find(attempts[0], loss("held")) is InBroker.QUEUED


@on_redis
def test_what_was_not_looked_at_with_others_is_looked_at_when_it_is_asked_for(broker: Any) -> None:
    [one] = held(broker, ["held"])
    assert broker.find(one, loss("held")) is InBroker.UNACKED
    assert broker.hand_back(one)
    assert not broker.hand_back(one)
