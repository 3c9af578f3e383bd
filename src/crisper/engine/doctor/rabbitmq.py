"""RabbitMQ: how long it lets a worker hold messages, and what becomes of those that come back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from crisper.engine.doctor.facts import FOR_ITS_ETA, WAITING, Broker, Facts, Queue
from crisper.engine.doctor.finding import Check, Level, Said
from crisper.engine.doctor.words import literal, named, round_up, span, tasks


def consumer_timeout(facts: Facts) -> Sequence[Said] | None:
    queues = _rabbit(facts.broker)
    known = facts.held()
    if not queues or not known:
        return None
    tightest = min(queues, key=lambda queue: queue.consumer_timeout)
    longer = {name: it for name, it in known.items() if it[0] > tightest.consumer_timeout}
    if not longer:
        return []
    whose = "RabbitMQ's default" if tightest.timeout_is_assumed else f"of the queue {tightest.name}"
    why = (
        f"{tasks(longer)}; consumer_timeout is {span(tightest.consumer_timeout)}, {whose}. After it RabbitMQ"
        " closes the worker's channel and gives all that it holds to others."
    )
    title = "messages are held for longer than RabbitMQ allows"
    return [Said(title, why, _longer(facts, tightest, set(longer.values())))]


def _longer(facts: Facts, queue: Queue, known: set[tuple[float, str]]) -> str:
    """The cure: of what waits by its nature, of what waits behind others, of what runs."""
    cures = []
    if any(how == FOR_ITS_ETA for _, how in known):
        cures.append(f"countdowns below {span(queue.consumer_timeout)}")
    rest = [(seconds, how) for seconds, how in known if how != FOR_ITS_ETA]
    if rest and facts.app.prefetch_multiplier != 1 and {how for _, how in rest} == {WAITING}:
        cures.append("app.conf.worker_prefetch_multiplier = 1")
    elif rest:
        wanted = round_up(max(seconds for seconds, _ in rest)) * 1000
        old = facts.broker is not None and facts.broker.version < (3, 12)  # it knows no such argument
        cures.append(
            f"consumer_timeout = {wanted} in rabbitmq.conf"
            if old
            else _queue(queue, **{"x-consumer-timeout": wanted})
        )
    return ", and ".join(cures)


def quorum_qos(facts: Facts) -> Sequence[Said] | None:
    queues = [queue for queue in _rabbit(facts.broker) if queue.declared_quorum or queue.is_quorum]
    if facts.broker is None or not queues or facts.broker.version >= (4,):
        return None
    seen = facts.app.detects_quorum_queues and any(queue.declared_quorum for queue in _rabbit(facts.broker))
    if seen:
        return []
    if facts.app.detects_quorum_queues:
        why, fix = "the app does not declare them so", _queue(queues[0], **{"x-queue-type": "quorum"})
    else:
        why, fix = "worker_detect_quorum_queues is off", "app.conf.worker_detect_quorum_queues = True"
    names = named(queue.name for queue in queues)
    why = (
        f"{names}: quorum queues, and {why}. Celery asks for a global prefetch, which they refuse, and its"
        " worker connects anew for ever."
    )
    return [Said("a worker cannot consume from quorum queues", why, fix)]


def dead_letters(facts: Facts) -> Sequence[Said] | None:
    limited = [queue for queue in _rabbit(facts.broker) if queue.delivery_limit is not None]
    if not limited:
        return None
    return list(_without_dead_letters(limited))


def _without_dead_letters(limited: Sequence[Queue]) -> Iterator[Said]:
    title = "what comes back too often has nowhere to go"
    for queue in limited:
        limit = f"the queue {queue.name} has a delivery limit of {queue.delivery_limit}"
        fix = _queue(queue, **{"x-dead-letter-exchange": "dead"})
        if queue.dead_letter_exchange is None:
            yield Said(title, f"{limit} and no dead-letter exchange: beyond it RabbitMQ drops messages.", fix)
        elif queue.dead_letter_is_there is False:
            exchange = queue.dead_letter_exchange
            why = (
                f"{limit}, and its dead-letter exchange {exchange!r} does not exist: RabbitMQ drops messages."
            )
            fix = f"declare the exchange {exchange!r}, and a queue that is bound to it"
            yield Said(title, why, fix)


def _queue(queue: Queue, **arguments: Any) -> str:
    """Declared with these too."""
    return f"Queue({literal(queue.name)}, queue_arguments={literal({**queue.arguments, **arguments})})"


def _rabbit(broker: Broker | None) -> tuple[Queue, ...]:
    return broker.queues if broker is not None and broker.kind == "amqp" else ()


CHECKS = (
    Check(
        "consumer-timeout", Level.WARNING,
        "RabbitMQ: late-acknowledged tasks, or ETAs, are held for longer than `consumer_timeout`, by"
        " history or"
        " time limits",
        "`x-consumer-timeout` of the queue (RabbitMQ 3.12), `consumer_timeout` of the server",
        consumer_timeout,
    ),
    Check(
        "quorum-qos", Level.ERROR,
        "RabbitMQ before 4: quorum queues that Celery does not know as such, so it asks for a global"
        " prefetch",
        "`worker_detect_quorum_queues = True`, `x-queue-type`", quorum_qos,
    ),
    Check(
        "dead-letters", Level.WARNING,
        "RabbitMQ: a delivery limit without a dead-letter exchange, or with one that does not exist",
        "`x-dead-letter-exchange`, and a queue bound to it", dead_letters,
    ),
)  # fmt: skip
