"""RabbitMQ: it requeues what a connection held as soon as that connection closes."""

from __future__ import annotations

from collections.abc import Sequence

from amqp.exceptions import NotFound

from crisper.celery.brokers.base import Broker
from crisper.core.model import Attempt, Recovery, Unclaimed
from crisper.core.verdict import InBroker


class AmqpBroker(Broker):
    """Cannot be asked what it holds unacknowledged; a redelivery is awaited for the grace."""

    def find(self, attempt: Attempt, recovery: Recovery) -> InBroker:
        return InBroker.REQUEUES

    def locate(self, messages: Sequence[Unclaimed], *, unkept: float) -> dict[str, bool | None]:
        # No message can be looked for in a queue; but in one where none waits there is none.
        empty = {queue: self._is_empty(queue) for queue in {one.queue for one in messages}}
        return {one.message_id: False if empty[one.queue] else None for one in messages}

    def _is_empty(self, queue: str) -> bool:
        """Whether nothing waits there; what is not there at all is empty."""
        with self.connection.channel() as channel:
            try:
                return int(channel.queue_declare(queue, passive=True).message_count) == 0
            except NotFound:
                return True
