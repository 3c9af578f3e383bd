"""What each broker can be asked and told about a lost attempt's message."""

from __future__ import annotations

from celery import Celery

from crisper.celery.brokers.base import Broker
from crisper.settings import Settings


def broker_of(app: Celery, settings: Settings) -> Broker:
    """The broker of this app, over a connection of its own."""
    connection = app.connection_for_write()
    driver = connection.transport.driver_type
    if driver == "redis":
        from crisper.celery.brokers.redis import RedisBroker

        return RedisBroker(app, connection, settings)
    if driver == "amqp":
        from crisper.celery.brokers.amqp import AmqpBroker

        return AmqpBroker(app, connection, settings)
    if driver == "filesystem":
        from crisper.celery.brokers.filesystem import FilesystemBroker

        return FilesystemBroker(app, connection, settings)
    return Broker(app, connection, settings)
