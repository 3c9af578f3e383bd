"""What the broker tells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from amqp.exceptions import NotFound
from celery import Celery
from kombu.utils.text import version_string_as_tuple

from crisper.celery import asking
from crisper.celery.brokers.amqp import management_of, server_version
from crisper.celery.brokers.management import Management, ManagementTrouble
from crisper.celery.brokers.rules import CONSUMER_TIMEOUT, rules_of
from crisper.celery.rollcall import RollCall
from crisper.engine.doctor.facts import Broker, Queue, Trouble
from crisper.settings import Settings

#: For all questions together, and to connect.
ANSWER_SECONDS = 6.0
CONNECT_SECONDS = 3.0

MANAGEMENT_FIX = 'app.conf.crisper_rabbitmq_management_url = "http://user:password@host:15672"'
SUPPORTED = ("redis", "amqp", "filesystem")


def ask(
    app: Celery, settings: Settings, within: float = ANSWER_SECONDS
) -> tuple[Broker, tuple[Trouble, ...]]:
    """Raises `BrokerSilent`."""
    call = RollCall(app)
    broker, troubles = asking.within(within, lambda: _ask(app, settings))
    return Broker(**{**broker, "nodes": _nodes(call)}), tuple(troubles)


def _nodes(call: RollCall) -> tuple[str, ...] | None:
    present = call.present()
    return None if present is None else tuple(present)


def _ask(app: Celery, settings: Settings) -> tuple[dict[str, Any], list[Trouble]]:
    with app.connection_for_write(connect_timeout=CONNECT_SECONDS) as connection:
        kind = str(connection.transport.driver_type)
        told: dict[str, Any] = {"kind": kind, "supported": kind in SUPPORTED}
        troubles: list[Trouble] = []
        if kind not in SUPPORTED:
            return told, troubles
        connection.ensure_connection(max_retries=1, timeout=CONNECT_SECONDS)
        if kind == "redis":
            told |= _redis(connection)
        if kind == "amqp":
            told["version"] = server_version(connection)
            told["queues"] = tuple(_queues(app, connection, settings, told["version"], troubles))
        return told, troubles


def _redis(connection: Any) -> dict[str, Any]:
    channel = connection.default_channel
    info = channel.client.info()
    limited = int(info.get("maxmemory") or 0) > 0
    return {
        "version": version_string_as_tuple(str(info.get("redis_version", "0")))[:2],
        "visibility_timeout": float(channel.visibility_timeout),
        "eviction": str(info.get("maxmemory_policy")) if limited else None,
    }


# -- RabbitMQ ----------------------------------------------------------------


def _queues(
    app: Celery, connection: Any, settings: Settings, version: tuple[int, ...], troubles: list[Trouble]
) -> Iterator[Queue]:
    api = management_of(settings, connection)
    for name in sorted(app.amqp.queues.consume_from):
        shown = None
        try:
            shown = None if api is None else api.queue(name)
        except ManagementTrouble as exc:
            api = None
            troubles.append(Trouble("management", str(exc), MANAGEMENT_FIX))
        yield _queue(app, connection, name, version, api, shown)


def _queue(
    app: Celery,
    connection: Any,
    name: str,
    version: tuple[int, ...],
    api: Management | None,
    shown: dict[str, Any] | None,
) -> Queue:
    rules = rules_of(app, name, version, api)
    declared = app.amqp.queues[name].queue_arguments or {}
    exchange = rules.dead_letter_exchange
    return Queue(
        name=app.amqp.queues[name].name,
        declared_quorum=declared.get("x-queue-type") == "quorum",
        is_quorum=None if shown is None else shown.get("type") == "quorum",
        delivery_limit=rules.delivery_limit,
        dead_letter_exchange=exchange,
        dead_letter_is_there=None if not exchange else _is_there(connection, exchange),
        consumer_timeout=rules.consumer_timeout,
        timeout_is_assumed=rules.consumer_timeout == CONSUMER_TIMEOUT,
        arguments=declared,
    )


def _is_there(connection: Any, exchange: str) -> bool:
    """Asked for passively: nothing is declared."""
    with connection.channel() as channel:
        try:
            channel.exchange_declare(exchange, "direct", passive=True)
            return True
        except NotFound:
            return False
