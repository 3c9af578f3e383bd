"""The broker: one queue, what is unacknowledged, and the ways in which it delivers again.

`redis`: what a dead worker held stays until the visibility timeout, and comes back under the same
tag. `amqp`: what a connection held comes back when the broker sees it closed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from functools import cache
from typing import NamedTuple

from crisper.core.message import Kept, pack
from crisper.core.model import Message as Packed
from crisper.core.states import OnLost
from crisper.testing.simulate.world import World

QUEUE = "queue"


class Away(Exception):
    """The broker does not answer."""


class Task(NamedTuple):
    """What is asked for, and how each run of it goes."""

    id: str
    acks_late: bool
    on_lost: OnLost
    loss_budget: int
    kept: bool
    fails: bool
    retries: int  # times that it retries itself before it ends
    poison: int  # bodies that kill their process before one gets through
    runtime: int


class Message:
    """One published message."""

    def __init__(self, task: Task, retries: int) -> None:
        self.task, self.retries, self.id = task, retries, f"{task.id}/{retries}"
        self.vanished = False  # popped from Redis' list, and its reader died before it was in `unacked` (F7)
        self.acknowledged_by: set[str] = set()  # names of lives; each time a delivery was destroyed

    @property
    def packed(self) -> Packed:
        return _packed(self.task.id, self.retries, self.id, self.task.kept)


@cache
def _packed(task_id: str, retries: int, id: str, is_kept: bool) -> Packed:
    body = b"[[], {}, {}]" if is_kept else b"[[" + b" " * 4096 + b"], {}, {}]"
    headers = {"id": task_id, "task": "task", "retries": retries, "crisper_message": id}
    kept = Kept(body, "application/json", "utf-8", headers, {"correlation_id": task_id}, "", QUEUE)
    return pack(kept, limit=2048)


class Connection:
    """A consumer's connection."""

    def __init__(self, name: str) -> None:
        self.name, self.open = name, True


class Delivery:
    """A message in a consumer's hands."""

    def __init__(
        self, message: Message, tag: str, redelivered: bool, connection: Connection, at: int
    ) -> None:
        self.message, self.tag, self.redelivered = message, tag, redelivered
        self.connection, self.score, self.received_at = connection, at, at


class Broker:
    """The server. `on_message` tells consumers that something waits."""

    def __init__(self, world: World, kind: str, visibility_ms: int) -> None:
        self.world, self.kind, self.visibility_ms = world, kind, visibility_ms
        self.queue: deque[tuple[Message, str, bool]] = deque()
        self.unacked: dict[str, Delivery] = {}
        self.messages: dict[str, Message] = {}
        self.away = False
        self.tags = 0
        self.looked_at = -(10**9)  # when somebody last looked for what nobody keeps
        self.consumers: list[Consumer] = []
        if kind == "redis":
            world.after(self._look_every, None, self._restore_forgotten)

    @property
    def _look_every(self) -> int:
        return max(200, self.visibility_ms // 3)

    # -- publishers -----------------------------------------------------------

    def publish(self, message: Message, actor: str, *, copy: bool = False) -> None:
        """Raises `Away`."""
        self._reach()
        self.messages[message.id] = message
        self.world.history.tell(actor, "publishes", message=message.id, **({"copy": True} if copy else {}))
        self._put(message, self._tag(), False)

    def _tag(self) -> str:
        self.tags += 1
        return f"tag{self.tags}"

    def _put(self, message: Message, tag: str, redelivered: bool, *, first: bool = False) -> None:
        (self.queue.appendleft if first else self.queue.append)((message, tag, redelivered))
        self._wake()

    def _wake(self) -> None:
        for consumer in self.consumers:
            consumer.message_waits()

    def _reach(self) -> None:
        if self.away:
            raise Away("the broker does not answer")

    # -- consumers ------------------------------------------------------------

    def pop(self) -> tuple[Message, str, bool] | None:
        return self.queue.popleft() if self.queue and not self.away else None

    def deliver(self, popped: tuple[Message, str, bool], connection: Connection) -> Delivery:
        message, tag, redelivered = popped
        if self.kind == "amqp":
            tag = self._tag()
        delivery = Delivery(message, tag, redelivered, connection, self.world.now)
        self.unacked[tag] = delivery
        return delivery

    def acknowledge(self, delivery: Delivery) -> bool:
        """Whether it came through: destroyed for good. On Redis by its tag, whoever has it now."""
        if self.away or not delivery.connection.open:
            return False
        if self.kind == "amqp" and self.unacked.get(delivery.tag) is not delivery:
            return False
        if self.unacked.pop(delivery.tag, None) is None:
            return False
        delivery.message.acknowledged_by.add(delivery.connection.name)
        return True

    def requeue(self, delivery: Delivery) -> bool:
        """Its consumer gives it back. On Redis under the same tag."""
        if self.away or not delivery.connection.open:
            return False
        if self.kind == "amqp" and self.unacked.get(delivery.tag) is not delivery:
            return False
        return self._restore(delivery.tag)

    def _restore(self, tag: str) -> bool:
        delivery = self.unacked.pop(tag, None)
        if delivery is None:
            return False
        self._put(delivery.message, tag, True, first=True)
        return True

    def close(self, connection: Connection, *, restores: bool) -> None:
        """The connection is gone, and the broker has seen it. `restores`: kombu gives back what it held on
        Redis, if it lives to do it."""
        connection.open = False
        if self.kind == "redis" and (not restores or self.away):
            return
        for tag in [tag for tag, one in self.unacked.items() if one.connection is connection]:
            self._restore(tag)

    def go_away(self) -> None:
        self.away = True
        for consumer in self.consumers:
            consumer.connection.open = False

    def come_back(self) -> None:
        self.away = False
        if self.kind == "amqp":
            for tag in [tag for tag, one in self.unacked.items() if not one.connection.open]:
                self._restore(tag)
        self._wake()

    # -- Redis ----------------------------------------------------------------

    def _restore_forgotten(self) -> None:
        """Any consumer does this in kombu: what was not renewed for the visibility timeout comes back."""
        if not self.away:
            late = self.world.now - self.visibility_ms
            for tag in [tag for tag, one in self.unacked.items() if one.score < late]:
                self.world.history.tell("redis", "restores", message=self.unacked[tag].message.id)
                self._restore(tag)
        self.world.after(self._look_every, None, self._restore_forgotten)

    def hand_back(self, tag: str) -> bool:
        """Crisper's script: into its queue, under a fresh tag."""
        delivery = self.unacked.pop(tag, None)
        if delivery is None:
            return False
        self._put(delivery.message, self._tag(), True, first=True)
        return True


class Consumer(ABC):
    """Who is told that something waits."""

    connection: Connection

    @abstractmethod
    def message_waits(self) -> None:
        """It may be fetched."""
