"""An app to which nothing can be objected, and others that differ from it in one thing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from crisper.engine.doctor.facts import (
    Address,
    App,
    Broker,
    Connections,
    Facts,
    Host,
    Journal,
    Queue,
    Registry,
    Task,
    Worker,
)
from crisper.settings import Settings

GiB = 2**30

WORKER = Worker("celery@one", "one", "boot-1", "proj", "0.1.0", "5.7.0", 20.0)
QUICK = Task("proj.add", acks_late=True, reject_on_worker_lost=True, makes_chords_of=("proj.sum",))

HEALTHY = Facts(
    settings=Settings(registry_url="sqlite:////r.db"),
    app=App(
        name="proj",
        tasks=(QUICK,),
        addresses=(Address("broker_url", "redis.example", loopback=False, has_password=True),),
        soft_shutdown=20.0,
    ),
    host=Host("one", Journal("/var/lib/crisper", True, 50 * GiB, "ext4"), grace=30.0),
    broker=Broker("redis", True, (7, 2), 3600.0, "noeviction", (), ("celery@one",)),
    registry=Registry(
        database="postgresql",
        version=(15,),
        offset=0.0,
        longest={"proj.add": 12.0},
        received=1000,
        workers=(WORKER,),
        connections=Connections(most=97, others=10),
    ),
)
QUEUE = Queue("celery", True, True, 20, "dead", True, 1800.0)
ON_RABBITMQ = replace(HEALTHY, broker=Broker("amqp", True, (3, 12), queues=(QUEUE,), nodes=("celery@one",)))


def with_settings(facts: Facts = HEALTHY, **changed: Any) -> Facts:
    return replace(facts, settings=replace(facts.settings, **changed))


def with_app(facts: Facts = HEALTHY, **changed: Any) -> Facts:
    return replace(facts, app=replace(facts.app, **changed))


def with_task(facts: Facts = HEALTHY, **changed: Any) -> Facts:
    return with_app(facts, tasks=(replace(QUICK, **changed),))


def with_broker(facts: Facts = HEALTHY, **changed: Any) -> Facts:
    assert facts.broker is not None
    return replace(facts, broker=replace(facts.broker, **changed))


def with_queue(**changed: Any) -> Facts:
    return with_broker(ON_RABBITMQ, queues=(replace(QUEUE, **changed),))


def with_registry(facts: Facts = HEALTHY, **changed: Any) -> Facts:
    assert facts.registry is not None
    return replace(facts, registry=replace(facts.registry, **changed))


def with_journal(**changed: Any) -> Facts:
    assert HEALTHY.host.journal is not None
    return replace(HEALTHY, host=replace(HEALTHY.host, journal=replace(HEALTHY.host.journal, **changed)))


def seen(seconds: float, facts: Facts = HEALTHY) -> Facts:
    """Its task took so long."""
    return with_registry(facts, longest={"proj.add": seconds})


def was_cut_short(seconds: float, facts: Facts = HEALTHY) -> Facts:
    """Its task had run for so long when it was lost, and was never seen to end."""
    return with_registry(facts, longest={}, cut_short={"proj.add": seconds})


def plain(facts: Facts = HEALTHY) -> Facts:
    """With a worker beside it that keeps no record."""
    return with_broker(facts, nodes=("celery@one", "celery@plain"))
