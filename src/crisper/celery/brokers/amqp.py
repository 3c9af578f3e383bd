"""RabbitMQ: it requeues what a connection held as soon as that connection closes."""

from __future__ import annotations

from crisper.celery.brokers.base import Broker
from crisper.core.model import Attempt, Recovery
from crisper.core.verdict import InBroker


class AmqpBroker(Broker):
    """Cannot be asked what it holds unacknowledged; a redelivery is awaited for the grace."""

    def find(self, attempt: Attempt, recovery: Recovery) -> InBroker:
        return InBroker.REQUEUES
