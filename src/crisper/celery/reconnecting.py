"""Making Celery take a new connection, as after any other loss of it, where the one that it has is silent."""

from __future__ import annotations

from typing import Any

from celery.utils.log import get_logger

from crisper.celery.brokers.amqp import management_of
from crisper.celery.brokers.management import ManagementTrouble
from crisper.celery.lookout import Lookout, break_off
from crisper.celery.node import process_of
from crisper.settings import Settings

logger = get_logger(__name__)


class Reconnecting:
    """Owned by the thread that looks for silence."""

    def __init__(self, worker: Any, lookout: Lookout, settings: Settings) -> None:
        self._worker, self._lookout, self._settings = worker, lookout, settings
        self._asked_to_close = self._done = -1  # of which generation of the broker's connection

    def once(self, generation: int, incarnation: str, *, dead: bool) -> None:
        """For each connection once; called again, because RabbitMQ may have to let go of a dead one first.

        The worker's control queue is its connection's alone (celery 5.6 and later): while RabbitMQ takes that
        for alive, Celery ends at the next one with RESOURCE_LOCKED.
        """
        if self._done == generation:
            return
        connection = self._worker.consumer.connection
        queue = self._worker.app.control.mailbox.get_queue(self._worker.hostname)
        speaks_amqp = connection.transport.driver_type == "amqp"
        if dead and speaks_amqp and queue.exclusive and self._lookout.is_locked(queue.name):
            self._ask_to_close(connection, generation, incarnation)
            return
        self._done = generation
        reconnect(self._worker)

    def _ask_to_close(self, connection: Any, generation: int, incarnation: str) -> None:
        if self._asked_to_close == generation:
            return
        self._asked_to_close = generation
        logger.warning("crisper: RabbitMQ holds this worker's dead connection; it connects anew behind that")
        api = management_of(self._settings, connection)
        if api is None:
            return
        try:
            for name in api.connections_of(process_of(incarnation)):
                api.close(name, "crisper: it is dead, and its worker connects anew")
        except ManagementTrouble as exc:
            logger.warning("crisper: the dead connection is left to RabbitMQ: %s", exc)


def reconnect(worker: Any) -> None:
    """From any thread: what waits for the old one, even to close it, finds it closed."""
    consumer = worker.consumer
    for connection in (consumer.connection, getattr(consumer.event_dispatcher, "connection", None)):
        break_off(connection)
    if worker.hub is not None:
        worker.hub.call_soon(_lose)


def _lose() -> None:
    raise ConnectionResetError("crisper: this worker takes no messages, and connects anew")


def outlast_close(connection: Any) -> None:
    """Celery 5.7 closes a connection that it has lost twice. Of a Redis that is away kombu may have closed
    only some channels then, and asks a transport that is gone for its address (kombu/transport/redis.py,
    `_connparams`): the worker would end over that.
    """
    close = connection.close

    def closed() -> None:
        try:
            close()
        except AttributeError:
            if connection._transport is not None:
                raise

    connection.close = closed
