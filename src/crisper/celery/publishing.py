"""Publishing on record: what leaves an app is noted, so that what vanishes in a broker is found.

Every message goes through `app.amqp.send_task_message`, Celery's own retries,
chains and chords included. In a worker's processes the note is a datagram to the
recorder; anywhere else a thread writes it, over a connection of its own.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

from celery import Celery
from celery.utils.imports import symbol_by_name
from celery.utils.log import get_logger
from kombu.serialization import dumps

from crisper.celery import MESSAGE_ID_HEADER
from crisper.errors import CrisperError
from crisper.settings import Settings

logger = get_logger(__name__)

#: What `Producer.publish` takes that is no property of the message.
_NOT_PROPERTIES = frozenset(
    (
        *("routing_key", "exchange", "declare", "mandatory", "immediate", "headers"),
        *("content_type", "content_encoding", "serializer", "compression"),
        *("retry", "retry_policy", "timeout", "confirm_timeout"),
    )
)

#: A message as it leaves, see `note_of`; what `Reader.published` reads.
Note = tuple[Any, ...]

#: Takes the notes of a worker's processes; None anywhere else.
_to_recorder: Callable[[Note], None] | None = None


def use(to_recorder: Callable[[Note], None] | None) -> None:
    """From now on this process and its forks give their notes to a recorder."""
    global _to_recorder
    _to_recorder = to_recorder


def install_on(app: Celery, settings_of: Callable[[Celery], Settings]) -> None:
    """Wrap what the app publishes by, also if it is made already."""
    make = partial(_recorded_amqp, app.amqp_cls, settings_of)
    app.amqp_cls = make
    if "amqp" in app.__dict__:
        app.amqp = make(app=app)


def _recorded_amqp(own: Any, settings_of: Callable[[Celery], Settings], app: Celery) -> Any:
    cls = symbol_by_name(own)

    def send_task_message(amqp: Any) -> Any:
        return _Sending(amqp.app, amqp._create_task_sender(), settings_of)

    sending = cached_property(send_task_message)
    recorded = type(cls.__name__, (cls,), {"send_task_message": sending})
    sending.__set_name__(recorded, "send_task_message")
    return recorded(app=app)


class _Sending:
    """In place of Celery's `send_task_message`."""

    def __init__(self, app: Celery, send: Any, settings_of: Callable[[Celery], Settings]) -> None:
        self._app, self._send, self._settings_of = app, send, settings_of
        self._lock = threading.Lock()
        self._made: Publisher | None = None
        self._pid = 0

    def __call__(self, producer: Any, name: str, message: Any, *args: Any, **options: Any) -> Any:
        publisher = self._publisher()
        if publisher is not None:
            producer = _Noting(producer, publisher, name)
        return self._send(producer, name, message, *args, **options)

    def _publisher(self) -> Publisher | None:
        """Made at the first publish of each process, by the settings of that moment."""
        if self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():
                    self._made, self._pid = self._make(), os.getpid()
        return self._made

    def _make(self) -> Publisher | None:
        try:
            settings = self._settings_of(self._app)
        except CrisperError as exc:
            logger.error("crisper: what is published here is not on record: %s", exc)
            return None
        if not settings.enabled or settings.track_publish == "off":
            return None
        return Publisher(self._app, settings)


class _Noting:
    """A producer that notes what it published."""

    def __init__(self, producer: Any, publisher: Publisher, name: str) -> None:
        self._producer, self._publisher, self._name = producer, publisher, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def publish(self, body: Any, **options: Any) -> Any:
        exchange = options.get("exchange")
        if not (options.get("headers") or {}).get(MESSAGE_ID_HEADER) or self._publisher.is_of_many(exchange):
            return self._producer.publish(body, **options)  # an event, or a message of nobody in particular
        if not options.get("content_type"):
            # As kombu would do it, so that what is noted is what leaves.
            made = dumps(body, serializer=options.pop("serializer", None) or self._producer.serializer)
            options["content_type"], options["content_encoding"], body = made
        try:
            note = note_of(self._name, body, options)
        except Exception:
            logger.exception("crisper: internal error while noting a message; it leaves without a record")
            return self._producer.publish(body, **options)
        with self._publisher.noting(note):
            return self._producer.publish(body, **options)


def note_of(name: str, body: Any, options: Mapping[str, Any]) -> Note:
    """`(time, message id, task id, name, queue, retries, body, content type, encoding, headers, properties,
    exchange, routing key)`."""
    headers = dict(options["headers"])
    exchange = options.get("exchange") or ""
    exchange = str(getattr(exchange, "name", exchange) or "")
    routing_key = str(options.get("routing_key") or "")
    declared = [str(getattr(one, "name", "")) for one in options.get("declare") or ()]
    properties = {k: v for k, v in options.items() if k not in _NOT_PROPERTIES and v is not None}
    if "expiration" in properties:  # as kombu writes it
        properties["expiration"] = str(int(properties["expiration"] * 1000))
    return (
        time.time(), str(headers[MESSAGE_ID_HEADER]), str(headers.get("id")), name,
        next(filter(None, declared), "") or routing_key, headers.get("retries") or 0,
        body, options.get("content_type"), options.get("content_encoding"), headers, properties,
        exchange, routing_key,
    )  # fmt: skip


class Publisher:
    """One per process and app."""

    def __init__(self, app: Celery, settings: Settings) -> None:
        from crisper.celery.claims import OF_MANY, exchanges_of_many
        from crisper.celery.node import scope_of  # only where it is wanted: a client starts fast
        from crisper.celery.notes import NoteWriter

        self._types_of_many, self._of_many = OF_MANY, exchanges_of_many(app)
        self._sync = settings.track_publish == "sync"
        self._writer = NoteWriter(settings, scope_of(app))

    def is_of_many(self, exchange: Any) -> bool:
        """Whether the exchange may give one message to several queues: who is to claim it?"""
        if getattr(exchange, "type", None) in self._types_of_many:
            return True
        return getattr(exchange, "name", exchange) in self._of_many

    @contextlib.contextmanager
    def noting(self, note: Note) -> Any:
        """Around the publish: raises what it raises, and nothing of its own."""
        written = self._sync and self._writer.write_now(note)
        try:
            yield
        except Exception:
            if written:
                self._writer.retract(note)
            raise
        if written:
            return
        if _to_recorder is not None:
            _to_recorder(note)
        else:
            self._writer.put(note)
