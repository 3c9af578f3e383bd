"""A broker that forgets what it has delivered: filesystem, SQLAlchemy, memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from celery import Celery
from kombu.exceptions import OperationalError
from kombu.transport.virtual import Transport as VirtualTransport

from crisper.celery import MESSAGE_ID_HEADER
from crisper.celery.brokers.rules import Rules
from crisper.celery.claims import exchanges_of
from crisper.core.message import Kept
from crisper.core.model import Attempt, Entry, Recovery, Unclaimed
from crisper.core.verdict import InBroker
from crisper.settings import Settings

#: In a message as virtual transports write it, which is JSON.
MESSAGE_ID = re.compile(rb'"%s": ?"([^"\\]+)"' % MESSAGE_ID_HEADER.encode())
#: How long a broker that confirms what is published may take for it.
CONFIRM_SECONDS = 10.0
#: How one message is published.
PATIENTLY = {"retry": True, "retry_policy": {"max_retries": 3, "interval_start": 0.1, "interval_max": 1}}
#: What publishing has arguments of its own for.
NAMED = ("headers", "content_type", "content_encoding")


class Waiting(NamedTuple):
    """What one queue holds that nobody has taken."""

    messages: int
    consumers: int | None = None  # None: the broker does not tell
    oldest_at: float | None = None  # seconds since the epoch; None: there is none, or it does not tell


def declare_exchanges(app: Celery, channel: Any) -> None:
    """Kombu's own transports know the type of an exchange only where it was declared on the connection:
    through any other they route by equal keys, so what a topic is to deliver goes nowhere."""
    for queue in app.amqp.queues.values():
        for exchange in exchanges_of(queue):
            if not exchange.passive:
                exchange(channel).declare()


def _tried(do: Callable[..., None], *arguments: Any) -> Exception | None:
    try:
        do(*arguments)
    except Exception as exc:
        return exc
    return None


class Broker:
    """Used by one courier thread; its connection is its own."""

    #: Whether `find` can see a message that a worker holds, and one that waits.
    tells = False

    def __init__(self, app: Celery, connection: Any, settings: Settings) -> None:
        self.app, self.connection, self.settings = app, connection, settings
        if isinstance(connection.transport, VirtualTransport):
            declare_exchanges(app, connection.default_channel)

    def look_ahead(self, attempts: Sequence[Attempt]) -> None:
        """Read at once what the broker still holds of these (one at least). What is handed back by it
        must be as it was read."""

    def find(self, attempt: Attempt, recovery: Recovery) -> InBroker:
        """Where the message of a lost attempt is."""
        return InBroker.NEVER

    def rules(self, queue: str) -> Rules | None:
        """What the broker does by itself with that queue's deliveries; None if it does nothing."""
        return None

    def let_go(self, attempt: Attempt, recovery: Recovery) -> None:
        """A redelivery is awaited: make the broker take back now what its dead holder still has."""

    def hand_back(self, attempt: Attempt) -> bool:
        """Make the broker deliver the held message again, at once; False if it moved."""
        return False

    def hand_back_all(self, attempts: Sequence[Attempt]) -> list[bool]:
        """`hand_back` for each, in few calls."""
        return [self.hand_back(attempt) for attempt in attempts]

    def take_back(self, tag: str, received_at: float) -> bool:
        """Hand back what was received under `tag`, if the broker still keeps it for that delivery
        (`received_at` by the receiver's clock)."""
        return False

    #: Seconds after which the broker gives a held message to somebody else, unless it is kept.
    forgets_after = float("inf")

    def keep(self, tags: Collection[str]) -> None:
        """These are held: the broker is not to give them to anybody else yet."""

    def unkept(self, seconds: float, *, every: float) -> list[tuple[Entry, float]]:
        """Deliveries that nobody kept for so long, each with the time of its last keeping; some of
        them, in turn, if there are many. None if any worker has looked within `every` seconds."""
        return []

    def locate(self, messages: Sequence[Unclaimed], *, unkept: float) -> dict[str, bool | None]:
        """Whether each published message still waits in the broker, or is held by somebody who keeps it;
        None where nobody can tell. What was not kept for `unkept` seconds is held by nobody."""
        return dict.fromkeys((one.message_id for one in messages), None)

    def waiting(self, queue: str) -> Waiting | None:
        """How much waits in the queue of that name; None if it is not there, or nobody can tell."""
        if not isinstance(self.connection.transport, VirtualTransport):
            return None
        return Waiting(int(self.connection.default_channel._size(queue)))

    def resend(self, message: Kept, attempt: Attempt) -> None:
        """Publish the kept message again: same id, headers, properties and body, byte for byte.

        A message that was one of several queues' goes to its own queue and is named as that queue's.
        """
        with self.app.amqp.Producer(self.connection, auto_declare=False) as producer:
            self._publish(producer, message, attempt, confirm_timeout=CONFIRM_SECONDS, **PATIENTLY)

    def resend_all(self, messages: Sequence[tuple[Kept, Attempt]]) -> list[Exception | None]:
        """`resend` for each, in few calls; None, or why it was not sent, or may not have been."""
        results: list[Exception | None] = [None] * len(messages)
        sent, away = self._send_together(messages), None
        for at in range(len(messages)):
            if at not in sent:  # by itself, so that it shows which one was wrong
                results[at] = away or _tried(self.resend, *messages[at])
                away = results[at] if isinstance(results[at], OperationalError) else None
        return results

    def _send_together(self, messages: Sequence[tuple[Kept, Attempt]]) -> set[int]:
        """Publish them in few calls; the places of those that are certain to have reached the broker."""
        return set()

    def _publish(self, producer: Any, message: Kept, attempt: Attempt, **how: Any) -> None:
        exchange, routing_key = self.target(message, attempt)
        properties = {k: v for k, v in message.properties.items() if k not in NAMED and v is not None}
        if "expiration" in properties:  # a text of milliseconds in a message, seconds to kombu
            properties["expiration"] = int(properties["expiration"]) / 1000
        producer.publish(
            message.body,
            exchange=exchange,
            routing_key=routing_key,
            headers={**message.headers, MESSAGE_ID_HEADER: attempt.message_id},
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            **how,
            **properties,
        )

    def target(self, message: Kept, attempt: Attempt) -> tuple[str, str]:
        """To the queue it came from, where it is known: its exchange may feed others too."""
        if attempt.queue and attempt.queue in self.app.amqp.queues:
            return "", self.app.amqp.queues[attempt.queue].name
        return message.exchange, message.routing_key

    def close(self) -> None:
        self.connection.release()
