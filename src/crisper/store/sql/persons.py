"""What a person, or a policy, decides."""

from __future__ import annotations

from typing import Any

from crisper.core.model import Attempt, Recovery
from crisper.core.states import (
    MAY_FOLLOW,
    OPEN,
    WAITS_FOR_A_PERSON,
    Saw,
    State,
    VerdictKind,
    recoverable,
    stoppable,
)
from crisper.core.text import key, storable
from crisper.core.verdict import Judgement, Verdict
from crisper.store import cases
from crisper.store.base import Stopped
from crisper.store.rows import ATTEMPT, RECOVERY, as_attempt, as_recovery
from crisper.store.sql.parts import TRIES, verb
from crisper.store.sql.recoveries import Recoveries

_ORDER = """
INSERT INTO crisper_order (task_id, number, incarnation, kind, ordered_by, reason, ordered_at)
VALUES (?, ?, ?, 'stop', ?, ?, ?) ON CONFLICT DO NOTHING"""


#: An attempt that was stopped and not lost has no recovery until a person recovers it.
_OPEN_STOPPED = """
INSERT INTO crisper_recovery
       (task_id, number, message_id, name, scope, state, version, cause, losses, verdict, reason, evidence,
        created_at, done_at)
SELECT a.task_id, a.number, a.message_id, a.name, i.scope, 'done', 1, 'stop', 0, 'revoked', a.reason, '{}',
       ?, ?
  FROM crisper_attempt a JOIN crisper_incarnation i ON i.id = a.incarnation
 WHERE a.task_id = ? AND a.state = 'revoked' AND a.body IS NOT NULL
   AND a.number = (SELECT max(l.number) FROM crisper_attempt l WHERE l.task_id = a.task_id)
ON CONFLICT DO NOTHING"""


def _moved(saw: Saw | None, recovery: Recovery | None, attempt: Attempt | None = None) -> bool:
    """Whether a task is no more as somebody saw it; of an attempt that was lost its recovery says it all."""
    if saw is None:
        return False
    number, state = (attempt.number, attempt.state) if attempt else (0, State.LOST)
    if recovery is None:
        return not saw.holds(number, state, None, None)
    return not saw.holds(recovery.number, state, recovery.state, recovery.verdict)


class Persons(Recoveries):
    """Each verb holds what was seen against what is."""

    def recover(self, task_id: str, *, by: str, reason: str, saw: Saw | None = None) -> Recovery | None:
        self._open_stopped(key(task_id))
        recovery = self._latest_recovery(key(task_id))
        if recovery is None or not recoverable(recovery.state, recovery.verdict) or _moved(saw, recovery):
            return None
        case = self.case(recovery.task_id, recovery.number)
        if case is None or case.message.body is None:
            return None
        return self.decide(recovery, VerdictKind.RECOVER, reason, {"was": recovery.state}, by=by)

    def discard(self, task_id: str, *, by: str, reason: str, saw: Saw | None = None) -> bool:
        recovery = self._latest_recovery(key(task_id))
        if recovery is None or recovery.state not in WAITS_FOR_A_PERSON or _moved(saw, recovery):
            return False
        evidence = {"was": recovery.state}
        return self.decide(recovery, VerdictKind.DISCARD, reason, evidence, by=by) is not None

    @verb
    def _open_stopped(self, task_id: str) -> None:
        with self.db.write():
            now = self.now()
            self.db.run(_OPEN_STOPPED, now, now, task_id)

    @verb
    def stop(self, task_id: str, *, by: str, reason: str, saw: Saw | None = None) -> Stopped | None:
        task_id, by, reason = key(task_id), storable(by), storable(reason)
        with self.db.write():
            for _ in range(TRIES):
                attempt, recovery = self._latest_held(task_id)
                # Who claimed the next attempt before we held this one is seen only now.
                newest = self.db.rows("SELECT max(number) FROM crisper_attempt WHERE task_id = ?", task_id)
                if attempt is None or newest[0][0] == attempt.number:
                    break
            if attempt is None or _moved(saw, recovery, attempt):
                return None
            return self._stop(self.now(), attempt, recovery, by, reason)

    def _latest_held(self, task_id: str) -> tuple[Attempt | None, Recovery | None]:
        """The task's latest attempt and its recovery, as they stay until commit."""
        attempts = self.db.rows(
            f"SELECT {ATTEMPT} FROM crisper_attempt WHERE task_id = ?"
            f" ORDER BY number DESC LIMIT 1{self.db.lock}",
            task_id,
        )
        if not attempts:
            return None, None
        attempt = as_attempt(attempts[0])
        recoveries = self.db.rows(
            f"SELECT {RECOVERY} FROM crisper_recovery WHERE task_id = ? AND number = ?{self.db.lock}",
            *(task_id, attempt.number),
        )
        return attempt, as_recovery(recoveries[0]) if recoveries else None

    def _stop(
        self, now: int, attempt: Attempt, recovery: Recovery | None, by: str, reason: str
    ) -> Stopped | None:
        place = attempt.task_id, attempt.number
        if recovery is not None:
            if not stoppable(recovery.state, recovery.verdict):
                return None
            verdict = Verdict(VerdictKind.REVOKED, reason, {"was": recovery.state})
            [decided] = cases.decide(self, [Judgement(recovery, verdict)], by=by)
            return None if decided is None else Stopped(attempt.number, attempt.state, decided)
        if attempt.state not in OPEN | MAY_FOLLOW:
            return None
        if self.db.run(_ORDER, *place, attempt.incarnation, by, reason, now):
            data = {"reason": reason, "was": attempt.state}
            self._event(now, "stop", task_id=place[0], number=place[1], actor=by, data=data)
        return Stopped(attempt.number, attempt.state, None)

    @verb
    def note(
        self, kind: str, task_id: str | None, number: int | None, actor: str, data: dict[str, Any]
    ) -> None:
        with self.db.write():
            self._event(
                self.now(),
                storable(kind),
                task_id=None if task_id is None else key(task_id),
                number=number,
                actor=actor,
                data=data,
            )

    def _latest_recovery(self, task_id: str) -> Recovery | None:
        """The recovery of the task's latest attempt, if that one was lost."""
        with self.db.write():
            rows = self.db.rows(
                f"SELECT {RECOVERY} FROM crisper_recovery r WHERE task_id = ? AND number ="
                " (SELECT max(number) FROM crisper_attempt a WHERE a.task_id = r.task_id)",
                task_id,
            )
        return as_recovery(rows[0]) if rows else None
