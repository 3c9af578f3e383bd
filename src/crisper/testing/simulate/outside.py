"""What a courier sees of the world: the app, the result backend and the broker, as it asks them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from crisper.celery.brokers.base import Broker as AnyBroker
from crisper.celery.courier import Courier
from crisper.celery.desk import StoreDesk
from crisper.core.message import Kept
from crisper.core.model import Attempt, Entry, Recovery
from crisper.core.verdict import InBroker, Judgement
from crisper.settings import Settings
from crisper.testing.simulate.broker import QUEUE, Away, Broker
from crisper.testing.simulate.world import Thread, World

#: Kombu's and our clocks differ by so much (`crisper.celery.brokers.redis.SCORE_SECONDS`).
SCORE_MS = 20


class Backend:
    """The result backend: the last state that was stored for each task."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.lost: set[str] = set()

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        return {"status": self.states.get(task_id, "PENDING"), "result": None}

    def mark_as_failure(self, task_id: str, exc: Exception, *, request: Any, store_result: bool) -> None:
        self.states[task_id] = "FAILURE"
        self.lost.add(task_id)

    def mark_as_revoked(self, task_id: str, reason: str, *, request: Any, store_result: bool) -> None:
        self.states[task_id] = "REVOKED"


class _Task:
    ignore_result = store_errors_even_if_ignored = False

    def __init__(self, backend: Backend) -> None:
        self.backend = backend


class _Queues(dict[str, Any]):
    @property
    def consume_from(self) -> dict[str, Any]:
        return self


class App:
    """As much of a Celery app as the courier asks for."""

    class _Amqp:
        queues = _Queues({QUEUE: None})

    class _Conf:
        accept_content = ("json",)

    def __init__(self, backend: Backend) -> None:
        self.backend, self.amqp, self.conf = backend, self._Amqp(), self._Conf()
        self.tasks = {"task": _Task(backend)}


class View(AnyBroker):
    """The broker as a courier or an upkeep of this thread reaches it."""

    def __init__(self, world: World, broker: Broker, thread: Thread, trouble: float) -> None:
        self._world, self._server, self._thread, self._trouble = world, broker, thread, trouble
        self.tells = broker.kind == "redis"
        self.forgets_after = broker.visibility_ms / 1000 if self.tells else float("inf")

    def _reach(self, doing: str) -> None:
        self._world.risk(self._thread.process, doing)
        if self._server.away:
            raise Away("the broker does not answer")

    def find(self, attempt: Attempt, recovery: Recovery) -> InBroker:
        if not self.tells:
            return InBroker.REQUEUES
        self._reach("before it asks the broker")
        if attempt.tag in self._server.unacked:
            return InBroker.UNACKED
        waits = any(message.id == attempt.message_id for message, _, _ in self._server.queue)
        return InBroker.QUEUED if waits else InBroker.GONE

    def hand_back(self, attempt: Attempt) -> bool:
        if not self.tells:
            return False
        self._reach("before it hands back")
        return self._server.hand_back(attempt.tag)

    def take_back(self, tag: str, received_at: float) -> bool:
        self._reach("before it takes back")
        delivery = self._server.unacked.get(tag)
        known = delivery is not None and delivery.score <= received_at * 1000 + SCORE_MS
        return known and self._server.hand_back(tag)

    def keep(self, tags: Collection[str]) -> None:
        if self._server.away:
            raise Away("the broker does not answer")
        for tag in tags:
            if tag in self._server.unacked:
                self._server.unacked[tag].score = self._world.now

    def unkept(self, seconds: float, *, every: float) -> list[tuple[Entry, float]]:
        server, now = self._server, self._world.now
        if now - server.looked_at < every * 900:
            return []
        server.looked_at = now
        return [
            (Entry(one.message.task.id, one.message.id, tag), one.score / 1000)
            for tag, one in server.unacked.items()
            if one.score < now - seconds * 1000
        ]

    def resend(self, message: Kept, attempt: Attempt) -> None:
        """The publish may fail, and may fail although it reached the broker."""
        self._reach("before it sends again")
        known = self._server.messages[attempt.message_id]
        if message.headers.get("id") != known.task.id:
            self._world.history.broken("canvas", f"{known.id} was sent again as {message.headers}")
        lost = not self._world.healed and self._world.rng.random() < self._trouble
        if lost and self._world.rng.random() < 0.5:
            raise Away("the message did not reach the broker")
        self._server.publish(known, self._thread.name, copy=True)
        if lost:
            self._world.history.seen("a publish of unknown outcome")
            raise Away("the broker's confirmation was lost")

    def close(self) -> None: ...


class SimulatedCourier(Courier):
    """The real courier, with its broker replaced; nobody without Crisper is there to be asked."""

    def __init__(self, app: App, settings: Settings, desk: StoreDesk, view: View, *, name: str) -> None:
        super().__init__(app, settings, desk, name=name)
        self._view = view

    @property
    def broker(self) -> AnyBroker:
        return self._view

    def _drop_broker(self) -> None: ...

    def _in_other_hands(self, cases: Sequence[Any]) -> frozenset[str]:
        return frozenset()


class SlowDesk(StoreDesk):
    """Between deciding and doing, and between doing and saying so, a courier may die or stand still."""

    def __init__(self, world: World, thread: Thread, store: Any, pauses: float) -> None:
        super().__init__(store)
        self._world, self._thread, self._pauses = world, thread, pauses

    def _pause(self, where: str) -> None:
        self._world.risk(self._thread.process, where)
        if not self._world.healed and self._world.rng.random() < self._pauses:
            self._world.meanwhile(self._thread, self._world.rng.randrange(10, 3000))

    def decide(self, judgements: Sequence[Judgement], *, by: str) -> list[Recovery | None]:
        self._pause("before its verdict is committed")
        decided = super().decide(judgements, by=by)
        self._pause("after its verdict was committed")
        return decided

    def complete(self, recoveries: Sequence[Recovery], *, by: str) -> None:
        self._pause("before it says that it is done")
        super().complete(recoveries, by=by)
