"""RabbitMQ: it requeues what a connection held as soon as that connection closes.

A host that hangs keeps its connection for minutes. Where the management API is configured, the
dead worker's own connection is closed there; elsewhere the message is sent again after the grace.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Sequence
from typing import Any

from amqp.exceptions import NotFound
from celery import Celery
from celery.utils.log import get_logger
from celery.utils.quorum_queues import detect_quorum_queues
from kombu.utils.text import version_string_as_tuple

from crisper.celery.brokers.base import CONFIRM_SECONDS, Broker, Waiting
from crisper.celery.brokers.management import PROCESS_PROPERTY, Management, ManagementTrouble
from crisper.celery.brokers.rules import RULES_SECONDS, Rules, rules_of
from crisper.celery.node import process_of
from crisper.core.message import Kept
from crisper.core.model import Attempt, Recovery, Unclaimed
from crisper.core.verdict import InBroker
from crisper.settings import Settings

logger = get_logger(__name__)

#: Incarnations whose connections were looked for; others after so many are looked for again.
REMEMBERED = 1000


class _Confirms:
    """What RabbitMQ says of each message of a channel of its own, awaited for all together."""

    def __init__(self, channel: Any, confirmed: set[int]) -> None:
        self._confirmed = confirmed
        self._waiting: dict[int, int] = {}  # places, by the number that RabbitMQ gives to each
        self._numbers = itertools.count(1)
        channel.confirm_select()
        channel.basic_publish = channel._basic_publish  # which does not wait
        channel.events["basic_ack"].add(self._ack)
        channel.events["basic_nack"].add(self._nack)

    def expect(self, at: int) -> None:
        """The next one, just published."""
        self._waiting[next(self._numbers)] = at

    def wait(self, connection: Any, seconds: float) -> None:
        """Raises what goes wrong; what was confirmed until then is."""
        give_up = time.monotonic() + seconds
        while self._waiting:
            connection.drain_events(timeout=max(0.001, give_up - time.monotonic()))

    def _ack(self, number: int, multiple: bool) -> None:
        self._confirmed.update(self._told(number, multiple))

    def _nack(self, number: int, multiple: bool) -> None:
        self._told(number, multiple)

    def _told(self, number: int, multiple: bool) -> list[int]:
        numbers = [one for one in self._waiting if one <= number] if multiple else [number]
        return [self._waiting.pop(one) for one in numbers if one in self._waiting]


class AmqpBroker(Broker):
    """Cannot be asked what it holds unacknowledged; a redelivery is awaited for the grace."""

    def __init__(self, app: Celery, connection: Any, settings: Settings) -> None:
        # Else a message that is written to a socket which is cut just then is taken for sent, and lost.
        connection.transport_options = {**connection.transport_options, "confirm_publish": True}
        super().__init__(app, connection, settings)
        self._api = management_of(settings, connection)
        self._let_go: dict[str, None] = {}
        self._rules: dict[str, tuple[Rules, float]] = {}
        self._version: tuple[int, ...] = ()

    def find(self, attempt: Attempt, recovery: Recovery) -> InBroker:
        return InBroker.REQUEUES

    def locate(self, messages: Sequence[Unclaimed], *, unkept: float) -> dict[str, bool | None]:
        # No message can be looked for in a queue; but in one where none waits there is none.
        empty = {queue: self._is_empty(queue) for queue in {one.queue for one in messages}}
        return {one.message_id: False if empty[one.queue] else None for one in messages}

    def _is_empty(self, queue: str) -> bool:
        """Whether nothing waits there; what is not there at all is empty."""
        found = self.waiting(queue)
        return found is None or found.messages == 0

    def waiting(self, queue: str) -> Waiting | None:
        with self.connection.channel() as channel:
            try:
                told = channel.queue_declare(queue, passive=True)
            except NotFound:
                return None
        return Waiting(int(told.message_count), int(told.consumer_count))

    def _send_together(self, messages: Sequence[tuple[Kept, Attempt]]) -> set[int]:
        sent: set[int] = set()
        try:
            with self.connection.channel() as channel:
                confirmed = _Confirms(channel, sent)
                producer = self.app.amqp.Producer(channel, auto_declare=False)
                try:
                    for at, one in enumerate(messages):
                        self._publish(producer, *one)
                        confirmed.expect(at)
                finally:
                    confirmed.wait(self.connection, CONFIRM_SECONDS)
        except Exception as exc:  # what was not confirmed is sent by itself
            logger.info("crisper: messages are sent again one by one: %s", exc)
        return sent

    def rules(self, queue: str) -> Rules:
        rules, at = self._rules.get(queue, (None, 0.0))
        now = time.monotonic()
        if rules is None or now - at > RULES_SECONDS:
            rules = self._read_rules(queue)
            self._rules[queue] = rules, now
        return rules

    def _read_rules(self, queue: str) -> Rules:
        self._version = self._version or server_version(self.connection)
        try:
            return rules_of(self.app, queue, self._version, self._api)
        except ManagementTrouble as exc:
            logger.warning("crisper: the queue %s is taken as the app declares it: %s", queue, exc)
            return rules_of(self.app, queue, self._version)

    def let_go(self, attempt: Attempt, recovery: Recovery) -> None:
        """Known by its process, and only where nothing but silence speaks of its death: a process that
        is gone has closed its connection itself. One that wakes in this moment connects anew, and
        what it runs adopts what it is given again. Trouble leaves it to the grace."""
        incarnation = attempt.incarnation
        if self._api is None or recovery.evidence.get("how") != "silence" or incarnation in self._let_go:
            return
        self._let_go[incarnation] = None
        if len(self._let_go) > REMEMBERED:
            del self._let_go[next(iter(self._let_go))]
        try:
            for name in self._api.connections_of(process_of(incarnation)):
                if self._api.close(name, "crisper: its worker was declared lost"):
                    logger.warning(
                        "crisper: closed the connection %s of a worker that was declared lost, so that"
                        " RabbitMQ gives back what it held",
                        name,
                    )
        except ManagementTrouble as exc:
            logger.warning("crisper: the connection of a lost worker is left to RabbitMQ: %s", exc)


def management_of(settings: Settings, connection: Any) -> Management | None:
    if not settings.rabbitmq_management_url:
        return None
    return Management(settings.rabbitmq_management_url, connection.virtual_host)


def server_version(connection: Any) -> tuple[int, ...]:
    """Of the RabbitMQ at the other end; `(0,)` if it does not say."""
    said = (getattr(connection.connection, "server_properties", None) or {}).get("version")
    return tuple(version_string_as_tuple(said)[:3]) if said else (0,)


def prefetch_is_static(consumer: Any) -> bool:
    """Whether RabbitMQ gives each of Celery's consumers a prefetch of its own, which cannot be changed any
    more: with quorum queues, and from RabbitMQ 4 on (celery/worker/consumer/tasks.py, `qos_global`)."""
    connection = consumer.connection
    if connection is None or connection.transport.driver_type != "amqp":
        return False
    is_global = getattr(consumer, "qos_global", None)  # Celery 5.5 does not tell
    if is_global is None:
        detects = consumer.app.conf.worker_detect_quorum_queues
        is_quorum = detects and detect_quorum_queues(consumer.app, "amqp")[0]
        is_global = not (is_quorum or connection.qos_semantics_matches_spec)
    return not is_global


def begin_anew(task_consumer: Any, tags: Collection[str]) -> None:
    """End these consumers and begin others in their place, which have their whole prefetch free. What was
    delivered stays with the channel. Waits for no answer: another thread may be reading."""
    for name, tag in list(task_consumer._active_tags.items()):
        if tag in tags:
            task_consumer.channel.basic_cancel(tag, nowait=True)
            del task_consumer._active_tags[name]
            for queue in task_consumer.queues:
                if queue.name == name:
                    task_consumer._basic_consume(queue, no_ack=task_consumer.no_ack, nowait=True)


def named_connection(consumer: Any, process: str) -> Any:
    """In place of the consumer's own `connection_for_read` (celery/worker/consumer/consumer.py, 5.5 to
    5.7): the same connection, with its process among its client properties."""

    def connection_for_read(heartbeat: Any = None) -> Any:
        options = consumer.app.conf.broker_transport_options or {}
        properties = {**(options.get("client_properties") or {}), PROCESS_PROPERTY: process}
        return consumer.ensure_connected(
            consumer.app.connection_for_read(
                heartbeat=heartbeat, transport_options={"client_properties": properties}
            )
        )

    return connection_for_read
