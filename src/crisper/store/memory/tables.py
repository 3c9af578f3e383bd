"""What a registry in plain Python keeps, and the parts that every verb of it is made of."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

from crisper.core.model import Attempt, Fence, Message, Published, Recovery, Worker
from crisper.core.states import VerdictKind, WorkerState
from crisper.core.text import as_json, key, storable
from crisper.store.base import Term

Row = TypeVar("Row")
#: What JSON gives back as it was.
_SCALARS = (str, int, bool, float, type(None))


class Event(NamedTuple):
    at: int
    kind: str
    task_id: str | None
    number: int | None
    incarnation: str | None
    seq: int | None
    actor: str
    data: dict[str, Any]


@dataclass
class Ordered:
    """An order to stop; `incarnation` and its place move when it follows its task."""

    incarnation: str
    by: str
    reason: str
    done: bool = False


def _wall_clock() -> int:
    return int(time.time() * 1000)


class Tables:
    """Dictionaries and their lock. `clock` gives milliseconds."""

    def __init__(self, clock: Callable[[], int] = _wall_clock) -> None:
        self._clock, self._lock = clock, threading.RLock()
        self._id = uuid.uuid4().hex
        self._workers: dict[str, Worker] = {}
        self._running: dict[str, dict[str, Any]] = {}  # what heartbeats told of running attempts, by seq
        self._attempts: dict[str, list[Attempt]] = {}
        self._messages: dict[tuple[str, int], Message] = {}
        self._recoveries: dict[tuple[str, int], Recovery] = {}
        self._held: dict[str, dict[int, tuple[str, int]]] = defaultdict(dict)  # open, by handle
        self._orders: dict[tuple[str, int], Ordered] = {}
        self._checkpoints: dict[str, tuple[int, int, str, str]] = {}  # number, when, data, preview
        self._terms: dict[str, Term] = {}
        self._mended = 0  # steps of the clock
        self._published: dict[str, tuple[Published, int]] = {}  # until claimed, with when it is due
        self._events: list[Event] = []
        self._once: set[tuple[str, int]] = set()

    def identity(self) -> str:
        return self._id

    def look_around(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...

    def attempts(self, task_id: str) -> list[Attempt]:
        with self._lock:
            return list(self._attempts.get(key(task_id), ()))

    def recoveries(self, task_id: str) -> list[Recovery]:
        with self._lock:
            return [r for (task, _), r in sorted(self._recoveries.items()) if task == key(task_id)]

    def events(self) -> list[Event]:
        with self._lock:
            return list(self._events)

    def worker(self, id: str) -> Worker | None:
        with self._lock:
            return self._workers.get(id)

    def checkpoint(self, task_id: str) -> tuple[int, int, str, str] | None:
        """Number, when, data and preview of the task's last one."""
        with self._lock:
            return self._checkpoints.get(key(task_id))

    def running(self, id: str) -> dict[str, Any]:
        with self._lock:
            return self._running.get(id, {})

    def _holds(self, fence: Fence) -> bool:
        worker = self._workers.get(fence.incarnation)
        return (
            worker is not None and worker.state is WorkerState.ALIVE and worker.generation == fence.generation
        )

    def _change(self, id: str, **changes: Any) -> None:
        self._workers[id] = changed(self._workers[id], changes)

    def _at(self, task_id: str, number: int) -> Attempt:
        return self._attempts[task_id][number - 1]

    def _set(self, attempt: Attempt, **changes: Any) -> None:
        self._attempts[attempt.task_id][attempt.number - 1] = changed(attempt, changes)

    def _kept(self, task_id: str, number: int) -> bool:
        message = self._messages.get((task_id, number))
        return message is not None and message.body is not None

    def _event(
        self,
        at: int,
        kind: str,
        *,
        actor: str,
        task_id: str | None = None,
        number: int | None = None,
        incarnation: str | None = None,
        seq: int | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        if incarnation is not None and seq is not None:
            if (incarnation, seq) in self._once:
                return
            self._once.add((incarnation, seq))
        self._events.append(
            Event(at, kind, task_id, number, incarnation, seq, storable(actor), plain(data or {}))
        )

    def _verdict_event(
        self, now: int, recovery: Recovery, verdict: VerdictKind, reason: str, by: str,
        evidence: dict[str, Any],
    ) -> None:  # fmt: skip
        self._event(
            now, "verdict", actor=by, task_id=recovery.task_id, number=recovery.number,
            data={"verdict": verdict, "reason": reason, "evidence": evidence},
        )  # fmt: skip


def plain(data: dict[str, Any]) -> dict[str, Any]:
    """The facts as a database would give them back."""
    if all(type(name) is str and type(value) in _SCALARS for name, value in data.items()):
        return dict(data)
    plain: dict[str, Any] = json.loads(as_json(data))
    return plain


def changed(row: Row, changes: dict[str, Any]) -> Row:
    """As `dataclasses.replace`, which takes twice as long: most of what a simulation does is this."""
    kind: Any = type(row)
    values_of, places = _columns(kind)
    values = list(values_of(row))
    for name, value in changes.items():
        values[places[name]] = value
    changed: Row = kind(*values)
    return changed


@cache
def _columns(kind: Any) -> tuple[Callable[[Any], tuple[Any, ...]], dict[str, int]]:
    names = [field.name for field in fields(kind)]
    return attrgetter(*names), {name: place for place, name in enumerate(names)}
