"""What a claim says on the wire, from a request as Celery made it."""

from __future__ import annotations

import re
import zlib
from typing import Any

from kombu.transport.virtual.exchange import TopicExchange

from crisper.celery import MESSAGE_ID_HEADER
from crisper.celery.held import Held
from crisper.celery.link import monotonic_ms
from crisper.core.states import OnLost
from crisper.recorder import wire
from crisper.settings import Settings

#: Where the item holds the queue's name.
QUEUE = 7
#: Where the item holds `dispatched`, which the parent may still learn before it leaves.
DISPATCHED = 11
#: Types of exchanges that may give one message to several queues.
OF_MANY = ("fanout", "topic", "headers")
_LOOKS, _OF_QUEUE = "~", "@"
_TOPICS = TopicExchange(None)  # kombu's reading of a binding's wildcards


def message_id(task_id: str, headers: dict[str, Any], body: str | bytes, queue: str = "") -> str:
    """From our header; a message without it is known by task id, retries and body.

    `queue`: where its exchange gives it to several queues, each has a message of its own.
    """
    given = headers.get(MESSAGE_ID_HEADER)
    if not given or not isinstance(given, str):
        raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)
        given = f"{_LOOKS}{task_id}/{headers.get('retries') or 0}/{zlib.crc32(raw):08x}"
    # What we sent again bears the name of the queue that it was lost from.
    return f"{given}{_OF_QUEUE}{queue}" if queue and _OF_QUEUE not in given else given


def published_id(message_id: str) -> str:
    """The message id without the name of the queue that it was given to."""
    return message_id.partition(_OF_QUEUE)[0]


class Claims:
    """Makes the items; knows the queue that each delivery came from."""

    def __init__(self, worker: Any, settings: Settings) -> None:
        self._worker, self._settings = worker, settings
        self._names: dict[tuple[str, str], str] = {}
        self._of_many: set[str] | None = None
        self._on_lost = {late: _on_lost(settings.on_lost, late) for late in (False, True)}

    def message_id_of(self, request: Any) -> str:
        """Of the message that the request was made from."""
        message = request.message
        info = message.delivery_info or {}
        exchange = info.get("exchange") or ""
        queue = ""
        if exchange in self._exchanges_of_many():
            queue = self._queue(info, exchange, info.get("routing_key") or "")
        return message_id(request.id, message.headers or {}, message.body or b"", queue)

    def _exchanges_of_many(self) -> set[str]:
        """The names of those that may give one message to several queues."""
        if self._of_many is None:
            self._of_many = exchanges_of_many(self._worker.app)
        return self._of_many

    def item(self, held: Held, *, begins: bool) -> list[Any]:
        """`begins`: nobody will tell us later that an early-acked body is about to begin."""
        request, message = held.request, held.request.message
        headers = message.headers or {}
        info = message.delivery_info or {}
        exchange, routing_key = info.get("exchange") or "", info.get("routing_key") or ""
        on_lost, loss_budget = self._policy(request.task, held.acks_late)
        return [
            wire.CLAIM,
            monotonic_ms(),
            held.seq,
            held.task_id,
            held.message_id,
            not held.message_id.startswith(_LOOKS),
            request.type,
            self._queue(info, exchange, routing_key),
            headers.get("retries") or 0,
            bool(info.get("redelivered")),
            held.acks_late,
            begins,  # index DISPATCHED
            str(message.delivery_tag),
            on_lost,
            loss_budget,
            message.body,
            message.content_type,
            message.content_encoding,
            headers,
            message.properties,
            exchange,
            routing_key,
            held.is_copy,
        ]

    def _policy(self, task: Any, acks_late: bool) -> tuple[str, int]:
        """What the task says, or the settings, of its losses."""
        given = getattr(task, "crisper", None)
        if not given:
            return self._on_lost[acks_late], self._settings.loss_budget
        on_lost = _on_lost(given.get("on_lost", self._settings.on_lost), acks_late)
        return on_lost, int(given.get("loss_budget", self._settings.loss_budget))

    def forget_queues(self) -> None:
        """The names go by consumer tags, which a new connection makes anew."""
        self._names.clear()
        self._of_many = None

    def _queue(self, info: dict[str, Any], exchange: str, routing_key: str) -> str:
        tag = info.get("consumer_tag")
        key = (f"tag:{tag}", "") if tag else (exchange, routing_key)
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = self._find_queue(tag, exchange, routing_key)
        return name

    def _find_queue(self, tag: str | None, exchange: str, routing_key: str) -> str:
        consumer = getattr(self._worker.consumer, "task_consumer", None)
        for queue_name, active in getattr(consumer, "_active_tags", {}).items():
            if tag and active == tag:
                return str(queue_name)
        queues = self._worker.app.amqp.queues
        for known in (queues.consume_from, queues):  # of several that it went to, the one that we consume
            for declared in known.values():  # their keys may be aliases
                if is_bound(declared, exchange, routing_key):
                    return str(declared.name)
        return routing_key


def exchanges_of_many(app: Any) -> set[str]:
    """Fanouts (Celery's broadcasts) and topics among the exchanges that the app's queues are bound to."""
    bound = [e for queue in app.amqp.queues.values() for e in exchanges_of(queue)]
    return {exchange.name for exchange in bound if exchange.type in OF_MANY}


def exchanges_of(queue: Any) -> list[Any]:
    """Those that have a name: the default exchange is bound to every queue, and to each by its own."""
    bound = (queue.exchange, *(binding.exchange for binding in queue.bindings or ()))
    return [exchange for exchange in bound if exchange is not None and exchange.name]


def is_bound(queue: Any, exchange: str, routing_key: str) -> bool:
    """Whether the exchange routes such a message to the queue, by the queue's declaration."""
    bound = [(queue.exchange, queue.routing_key or queue.name)]
    bound += [(binding.exchange, binding.routing_key or "") for binding in queue.bindings or ()]
    return any(
        ((declared and declared.name) or "") == exchange and _matches(declared, key, routing_key)
        for declared, key in bound
    )


def _matches(exchange: Any, key: str, routing_key: str) -> bool:
    kind = getattr(exchange, "type", None)
    if kind == "topic":
        return bool(re.match(_TOPICS.key_to_pattern(key), routing_key))
    return kind == "fanout" or key == routing_key


def _on_lost(policy: str, acks_late: bool) -> str:
    """`auto`: a task that acknowledges late has said that it may run twice."""
    if policy == "auto":
        return OnLost.RESEND.value if acks_late else OnLost.FAIL.value
    return OnLost(policy).value
