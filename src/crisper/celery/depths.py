"""How much waits in the broker's queues, and who takes from them; from a thread of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from celery import Celery

from crisper.celery.asking import within
from crisper.celery.brokers import broker_of
from crisper.celery.brokers.base import Waiting
from crisper.settings import Settings

ANSWER_SECONDS = 3.0

#: Queues that are asked about at most.
MOST = 200


class Depths(NamedTuple):
    """By queue; what cannot be told is not there."""

    broker: str  # the transport's own name
    waiting: dict[str, Waiting]


def depths(app: Celery, settings: Settings, queues: Iterable[str]) -> Depths:
    """Of the queues that the app consumes from, and of these. Raises `BrokerSilent`."""
    names = sorted({*(queue.name for queue in app.amqp.queues.consume_from.values()), *queues})[:MOST]
    return within(ANSWER_SECONDS, lambda: _ask(app, settings, names))


def _ask(app: Celery, settings: Settings, names: list[str]) -> Depths:
    broker = broker_of(app, settings)
    try:
        broker.connection.ensure_connection(max_retries=1, timeout=ANSWER_SECONDS)
        found = ((name, broker.waiting(name)) for name in names)
        waiting = {name: one for name, one in found if one is not None}
        return Depths(str(broker.connection.transport.driver_type), waiting)
    finally:
        broker.close()
