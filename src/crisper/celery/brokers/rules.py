"""What RabbitMQ does by itself with a queue's deliveries: how often, where to, how long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from celery import Celery

from crisper.celery.brokers.management import Management

#: RabbitMQ's own default of `consumer_timeout` (since 3.8.17), in seconds. What the server's file
#: says instead, the management API does not tell.
CONSUMER_TIMEOUT = 1800.0
#: RabbitMQ 4's own default of a quorum queue's delivery limit.
DELIVERY_LIMIT_FROM_4 = 20
#: A policy may change: the API is asked again after this. A thousand workers of five queues ask 8 times a
#: second.
RULES_SECONDS = 600.0


class Rules(NamedTuple):
    """Of one queue."""

    delivery_limit: int | None = None  # how often a message may come back; None: for ever
    dead_letter_exchange: str | None = None
    consumer_timeout: float = CONSUMER_TIMEOUT  # seconds


def rules_of(app: Celery, name: str, version: tuple[int, ...], api: Management | None = None) -> Rules:
    """As the app declares the queue; with the management API, as it is. Raises `ManagementTrouble`."""
    declared: Mapping[str, Any] = {}
    if name in app.amqp.queues:
        declared = app.amqp.queues[name].queue_arguments or {}
    shown = (api.queue(name) if api is not None else None) or {}
    arguments = {**declared, **(shown.get("arguments") or {})}
    policy = shown.get("effective_policy_definition") or {}
    quorum = shown.get("type", arguments.get("x-queue-type")) == "quorum"
    limits = _numbers(arguments.get("x-delivery-limit"), policy.get("delivery-limit"))
    if not limits and version >= (4,):
        limits = [DELIVERY_LIMIT_FROM_4]
    timeouts = _numbers(arguments.get("x-consumer-timeout"), policy.get("consumer-timeout"))
    exchange = arguments.get("x-dead-letter-exchange", policy.get("dead-letter-exchange"))
    return Rules(
        # RabbitMQ: the smaller of argument and policy; below zero is no limit.
        delivery_limit=min(limits) if quorum and limits and min(limits) >= 0 else None,
        dead_letter_exchange=None if exchange is None else str(exchange),
        consumer_timeout=min(timeouts) / 1000 if timeouts else CONSUMER_TIMEOUT,
    )


def _numbers(*values: Any) -> list[int]:
    return [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
