"""Workers: they enroll, renew their leases, and end."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from crisper.core.model import Fence, Incarnation, Lease, Pulse, Sighting, Worker
from crisper.core.states import WorkerState
from crisper.core.text import key, storable
from crisper.store.memory.tables import Tables, plain

_AGE = attrgetter("started_at", "id")


class Incarnations(Tables):
    """The verbs of incarnations."""

    def enroll(self, incarnation: Incarnation) -> Fence:
        one, now = incarnation, self._clock()
        with self._lock:
            if one.id not in self._workers:
                self._workers[one.id] = Worker(
                    one.id, storable(one.hostname), storable(one.scope), storable(one.host),
                    storable(one.boot_id), one.pid_namespace, one.pid, one.pid_start, 0, 0, one.lease_ms,
                    one.heartbeat_ms, WorkerState.ALIVE, 0, 1, now, now, None, False, {},
                    plain(one.about), {},
                )  # fmt: skip
            self._event(now, "worker_enrolled", actor=storable(one.hostname), incarnation=one.id, seq=0)
        return Fence(one.id, 1)

    def replace_recorder(self, fence: Fence) -> Fence | None:
        with self._lock:
            if not self._holds(fence):
                return None
            self._change(fence.incarnation, generation=fence.generation + 1)
            return Fence(fence.incarnation, fence.generation + 1)

    def renew(self, fence: Fence, pulse: Pulse) -> bool:
        with self._lock:
            if not self._holds(fence):
                return False
            if pulse.running:
                self._running[fence.incarnation] = plain(pulse.running)
            self._change(
                fence.incarnation,
                counter=self._workers[fence.incarnation].counter + 1,
                recorder_pid=pulse.recorder_pid,
                recorder_start=pulse.recorder_start,
                pulse=plain({"loop_age_ms": pulse.loop_age_ms, **pulse.detail}),
                seen_at=self._clock(),
            )
            return True

    def alive(self) -> list[Worker]:
        with self._lock:
            return _sorted([w for w in self._workers.values() if w.state is WorkerState.ALIVE])

    def leases(self) -> list[Lease]:
        return [Lease(*(getattr(worker, name) for name in Lease._fields)) for worker in self.alive()]

    def uncleared(self) -> list[Worker]:
        with self._lock:
            return _sorted(
                [w for w in self._workers.values() if not w.cleared and w.state is not WorkerState.ALIVE]
            )

    def running_processes(self, id: str) -> list[tuple[int, int]]:
        with self._lock:
            attempts = [self._at(*place) for place in self._held[id].values()]
        return list({(a.pid, a.pid_start) for a in attempts if a.pid and a.pid_start is not None})

    def declare_lost(self, id: str, counter: int, *, by: str, evidence: dict[str, Any]) -> bool:
        with self._lock:
            worker = self._workers.get(id)
            if worker is None or worker.state is not WorkerState.ALIVE or worker.counter != counter:
                return False
            return self._end(id, WorkerState.LOST, by, evidence)

    def declare_own_loss(self, fence: Fence, *, evidence: dict[str, Any]) -> bool:
        with self._lock:
            held = self._holds(fence)
            return held and self._end(fence.incarnation, WorkerState.LOST, "witness", evidence)

    def say_goodbye(self, fence: Fence, *, reason: str) -> bool:
        with self._lock:
            held = self._holds(fence)
            return held and self._end(fence.incarnation, WorkerState.GONE, "worker", {"reason": reason})

    def testify(self, fence: Fence, seen: Sequence[Sighting]) -> bool:
        with self._lock:
            if not self._holds(fence):
                return False
            for one in seen:
                self._event(
                    self._clock(),
                    storable(one.kind),
                    task_id=None if one.task_id is None else key(one.task_id),
                    number=one.number,
                    incarnation=fence.incarnation,
                    actor="recorder",
                    data=one.data,
                )
            return True

    def _end(self, id: str, state: WorkerState, by: str, evidence: dict[str, Any]) -> bool:
        now = self._clock()
        self._change(id, state=state, ended_at=now, evidence=plain({**evidence, "by": by}))
        self._event(now, f"worker_{state}", actor=by, incarnation=id, data=evidence)
        return True


def _sorted(workers: list[Worker]) -> list[Worker]:
    if len(workers) > 1:
        workers.sort(key=_AGE)
    return workers
