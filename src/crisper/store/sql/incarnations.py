"""Workers: they enroll, renew their leases, and end."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from crisper.core.model import Fence, Incarnation, Lease, Pulse, Sighting, Worker
from crisper.core.text import as_json, key, storable
from crisper.store.rows import IS_OPEN, WORKER
from crisper.store.sql.parts import Parts, verb

_LEASES = f"SELECT {', '.join(Lease._fields)} FROM crisper_incarnation WHERE state = 'alive' AND NOT cleared"
_RENEW = """
UPDATE crisper_incarnation
   SET counter = counter + 1, recorder_pid = ?, recorder_start = ?, pulse = ?, seen_at = {now}
 WHERE id = ? AND generation = ? AND state = 'alive'"""
_TELL = "UPDATE crisper_running SET at = {now}, told = ? WHERE incarnation = ?"
_TELL_FIRST = "INSERT INTO crisper_running (at, told, incarnation) VALUES ({now}, ?, ?)"
#: All three, where one statement can.
_RENEW_AND_TELL = f"""
WITH renewed AS ({_RENEW} RETURNING id, seen_at)
INSERT INTO crisper_running (incarnation, at, told) SELECT id, seen_at, ? FROM renewed
    ON CONFLICT (incarnation) DO UPDATE SET at = excluded.at, told = excluded.told"""


class Incarnations(Parts):
    """The verbs of incarnations."""

    def identity(self) -> str:
        with self.db.write():
            rows = self.db.rows("SELECT r.value FROM crisper_registry r WHERE r.key = 'id'")
        return str(rows[0][0])

    @verb
    def enroll(self, incarnation: Incarnation) -> Fence:
        one = incarnation
        names = [storable(name) for name in (one.hostname, one.scope, one.host, one.boot_id)]
        with self.db.write():
            now = self.now()
            self.db.run(
                f"INSERT INTO crisper_incarnation ({WORKER}) VALUES"
                " (?, ?, ?, ?, ?, ?, ?, ?, 0, 0, ?, ?, 'alive', 0, 1, ?, ?, NULL, FALSE, '{}', ?, '{}')"
                " ON CONFLICT DO NOTHING",
                *(one.id, *names, one.pid_namespace),
                *(one.pid, one.pid_start, one.lease_ms, one.heartbeat_ms),
                *(now, now, as_json(one.about)),
            )
            self._event(now, "worker_enrolled", actor=names[0], incarnation=one.id, seq=0)
        return Fence(one.id, 1)

    @verb
    def replace_recorder(self, fence: Fence) -> Fence | None:
        with self.db.write():
            moved = self.db.run(
                "UPDATE crisper_incarnation SET generation = generation + 1"
                " WHERE id = ? AND generation = ? AND state = 'alive'",
                *fence,
            )
        return Fence(fence.incarnation, fence.generation + 1) if moved else None

    @verb
    def renew(self, fence: Fence, pulse: Pulse) -> bool:
        detail = as_json({"loop_age_ms": pulse.loop_age_ms, **pulse.detail})
        renewal = (pulse.recorder_pid, pulse.recorder_start, detail, *fence)
        if not pulse.running:
            with self.db.single():
                return bool(self._run(_RENEW, *renewal))
        told = as_json(pulse.running)
        if self.db.combines:
            with self.db.single():
                return bool(self._run(_RENEW_AND_TELL, *renewal, told))
        with self.db.write():
            renewed = self._run(_RENEW, *renewal)
            if renewed and not self._run(_TELL, told, fence.incarnation):
                self._run(_TELL_FIRST, told, fence.incarnation)
        return bool(renewed)

    def _run(self, statement: str, *params: Any) -> int:
        return self.db.run(statement.format(now=self.db.now()), *params)

    def alive(self) -> list[Worker]:
        with self.db.single():
            return self._workers("state = 'alive' AND NOT cleared")

    def leases(self) -> list[Lease]:
        with self.db.single():
            return list(itertools.starmap(Lease, self.db.rows(_LEASES)))

    def uncleared(self) -> list[Worker]:
        with self.db.single():
            return self._workers("state IN ('lost', 'gone') AND NOT cleared")

    def running_processes(self, id: str) -> list[tuple[int, int]]:
        with self.db.write():
            rows = self.db.rows(
                "SELECT DISTINCT pid, pid_start FROM crisper_attempt WHERE incarnation = ?"
                f" AND {IS_OPEN} AND pid > 0 AND pid_start IS NOT NULL",
                id,
            )
        return [(int(pid), int(start)) for pid, start in rows]

    def declare_lost(self, id: str, counter: int, *, by: str, evidence: dict[str, Any]) -> bool:
        return self._end("lost", evidence, by, id, "counter = ? AND state = 'alive'", counter)

    def declare_own_loss(self, fence: Fence, *, evidence: dict[str, Any]) -> bool:
        return self._end(
            "lost",
            evidence,
            "witness",
            fence.incarnation,
            "generation = ? AND state = 'alive'",
            fence.generation,
        )

    def say_goodbye(self, fence: Fence, *, reason: str) -> bool:
        return self._end(
            "gone",
            {"reason": reason},
            "worker",
            fence.incarnation,
            "generation = ? AND state = 'alive'",
            fence.generation,
        )

    @verb
    def testify(self, fence: Fence, seen: Sequence[Sighting]) -> bool:
        with self.db.write():
            now = self._hold(fence)
            if now is None:
                return False
            for one in seen:
                self._event(
                    now,
                    storable(one.kind),
                    task_id=None if one.task_id is None else key(one.task_id),
                    number=one.number,
                    incarnation=fence.incarnation,
                    actor="recorder",
                    data=one.data,
                )
            return True

    @verb
    def _end(self, state: str, evidence: dict[str, Any], by: str, id: str, where: str, *params: Any) -> bool:
        with self.db.write():
            now = self.now()
            won = self.db.run(
                "UPDATE crisper_incarnation SET state = ?, ended_at = ?, evidence = ?"
                f" WHERE id = ? AND {where}",
                *(state, now, as_json({**evidence, "by": by}), id, *params),
            )
            if won:
                kind = f"worker_{state}"
                self._event(now, kind, incarnation=id, actor=by, data=evidence)
        return bool(won)
