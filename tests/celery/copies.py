"""A message published exactly as it was before, as a shovel, a replay or a broker's mistake does it."""

from __future__ import annotations

from typing import Any, NamedTuple

from celery import signals

from tests.fleet import Fleet, wait_for


class Published(NamedTuple):
    """A message as it left."""

    id: str
    body: Any
    headers: dict[str, Any]
    properties: dict[str, Any]
    routing_key: str


def publish(fleet: Fleet, task: str, *args: Any, **options: Any) -> Published:
    """Send the task, and keep what was sent."""
    left: list[dict[str, Any]] = []

    def keep(sender: Any = None, **message: Any) -> None:
        left.append(message)

    signals.before_task_publish.connect(keep)
    try:
        sent = fleet.send(task, *args, **options)
    finally:
        signals.before_task_publish.disconnect(keep)
    [message] = left
    # The very dictionaries that were sent: other receivers may have added to them since.
    return Published(
        sent.id, message["body"], message["headers"], message["properties"], message["routing_key"]
    )


def publish_copy(fleet: Fleet, message: Published, queue: str = "", **headers: Any) -> None:
    """The same message again, with the same message id; `headers` replaces some, None leaves one out."""
    given = {key: value for key, value in {**message.headers, **headers}.items() if value is not None}
    with fleet.app.producer_pool.acquire() as producer:
        producer.publish(
            message.body,
            exchange="",
            routing_key=queue or message.routing_key,
            headers=given,
            serializer="json",
            **message.properties,
        )


def refusals(fleet: Fleet, task_id: str) -> list[str]:
    """Why deliveries of the task were refused."""
    import json

    rows = fleet.rows("SELECT data FROM crisper_event WHERE kind = 'refused' AND task_id = ?", task_id)
    return [json.loads(data)["reason"] for (data,) in rows]


def refused(fleet: Fleet, task_id: str, times: int = 1) -> list[str]:
    """The reasons, once there are so many."""
    return wait_for(
        f"{times} refusals",
        lambda: found if len(found := refusals(fleet, task_id)) >= times else [],
    )
