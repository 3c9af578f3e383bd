"""What a claim says on the wire, from a request as Celery made it."""

from __future__ import annotations

import zlib
from typing import Any

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
_LOOKS = "~"


def message_id_of(request: Any) -> str:
    """Of the message that the request was made from."""
    return message_id(request.id, request.message.headers or {}, request.message.body or b"")


def message_id(task_id: str, headers: dict[str, Any], body: str | bytes) -> str:
    """From our header; a message without it is known by task id, retries and body."""
    given = headers.get(MESSAGE_ID_HEADER)
    if given and isinstance(given, str):
        return given
    raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)
    return f"{_LOOKS}{task_id}/{headers.get('retries') or 0}/{zlib.crc32(raw):08x}"


class Claims:
    """Makes the items; knows the queue that each delivery came from."""

    def __init__(self, worker: Any, settings: Settings) -> None:
        self._worker, self._settings = worker, settings
        self._names: dict[tuple[str, str], str] = {}

    def item(self, held: Held, *, begins: bool) -> list[Any]:
        """`begins`: nobody will tell us later that an early-acked body is about to begin."""
        request, message = held.request, held.request.message
        headers = message.headers or {}
        info = message.delivery_info or {}
        exchange, routing_key = info.get("exchange") or "", info.get("routing_key") or ""
        policy = getattr(request.task, "crisper", None) or {}
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
            _on_lost(policy.get("on_lost", self._settings.on_lost), held.acks_late),
            int(policy.get("loss_budget", self._settings.loss_budget)),
            message.body,
            message.content_type,
            message.content_encoding,
            headers,
            message.properties,
            exchange,
            routing_key,
            held.is_copy,
        ]

    def forget_queues(self) -> None:
        """The names go by consumer tags, which a new connection makes anew."""
        self._names.clear()

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
        for name, declared in self._worker.app.amqp.queues.items():
            same_exchange = (declared.exchange.name or "") == exchange
            if same_exchange and (declared.routing_key or name) == routing_key:
                return str(name)
        return routing_key


def _on_lost(policy: str, acks_late: bool) -> str:
    """`auto`: a task that acknowledges late has said that it may run twice."""
    if policy == "auto":
        return OnLost.RESEND.value if acks_late else OnLost.FAIL.value
    return OnLost(policy).value
