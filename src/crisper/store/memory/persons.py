"""What a person, or a policy, decides."""

from __future__ import annotations

from typing import Any

from crisper.core.model import Recovery
from crisper.core.states import (
    MAY_FOLLOW,
    OPEN,
    WAITS_FOR_A_PERSON,
    RecoveryState,
    Saw,
    State,
    VerdictKind,
    recoverable,
    stoppable,
)
from crisper.core.text import key, storable
from crisper.store.base import Stopped
from crisper.store.memory.recoveries import Recoveries
from crisper.store.memory.tables import Ordered


class Persons(Recoveries):
    """Each verb holds what was seen against what is."""

    def recover(self, task_id: str, *, by: str, reason: str, saw: Saw | None = None) -> Recovery | None:
        with self._lock:
            self._open_stopped(key(task_id))
            recovery = self._latest_recovery(task_id)
            if recovery is None or not recoverable(recovery.state, recovery.verdict):
                return None
            if self._moved(task_id, saw):
                return None
            if not self._kept(recovery.task_id, recovery.number):
                return None
            was = {"was": recovery.state}
            return self.decide(recovery, VerdictKind.RECOVER, reason, was, by=by)

    def discard(self, task_id: str, *, by: str, reason: str, saw: Saw | None = None) -> bool:
        with self._lock:
            recovery = self._latest_recovery(task_id)
            if recovery is None or recovery.state not in WAITS_FOR_A_PERSON or self._moved(task_id, saw):
                return False
            was = {"was": recovery.state}
            return self.decide(recovery, VerdictKind.DISCARD, reason, was, by=by) is not None

    def _moved(self, task_id: str, saw: Saw | None) -> bool:
        if saw is None:
            return False
        one, its = self._attempts[key(task_id)][-1], self._latest_recovery(task_id)
        told = (None, None) if its is None else (its.state, its.verdict)
        return not saw.holds(one.number, one.state, *told)

    def _open_stopped(self, task_id: str) -> None:
        """An attempt that was stopped and not lost has no recovery until a person recovers it."""
        attempts = self._attempts.get(task_id)
        if not attempts or attempts[-1].state is not State.REVOKED:
            return
        one, now = attempts[-1], self._clock()
        if (task_id, one.number) in self._recoveries or not self._kept(task_id, one.number):
            return
        self._recoveries[task_id, one.number] = Recovery(
            task_id, one.number, one.message_id, one.name, self._workers[one.incarnation].scope,
            RecoveryState.DONE, 1, "stop", 0, VerdictKind.REVOKED, one.reason, {}, None, None, now, None,
            None, None, now,
        )  # fmt: skip

    def stop(self, task_id: str, *, by: str, reason: str, saw: Saw | None = None) -> Stopped | None:
        by, reason = storable(by), storable(reason)
        with self._lock:
            attempts = self._attempts.get(key(task_id))
            if not attempts or self._moved(task_id, saw):
                return None
            one, place = attempts[-1], (key(task_id), len(attempts))
            recovery = self._recoveries.get(place)
            if recovery is not None:
                if not stoppable(recovery.state, recovery.verdict):
                    return None
                was = {"was": recovery.state}
                decided = self.decide(recovery, VerdictKind.REVOKED, reason, was, by=by)
                return None if decided is None else Stopped(one.number, one.state, decided)
            if one.state not in OPEN | MAY_FOLLOW:
                return None
            if place not in self._orders:
                self._orders[place] = Ordered(one.incarnation, by, reason)
                self._event(
                    self._clock(), "stop", actor=by, task_id=place[0], number=place[1],
                    data={"reason": reason, "was": one.state},
                )  # fmt: skip
            return Stopped(one.number, one.state, None)

    def note(
        self, kind: str, task_id: str | None, number: int | None, actor: str, data: dict[str, Any]
    ) -> None:
        with self._lock:
            task = None if task_id is None else key(task_id)
            self._event(self._clock(), storable(kind), actor=actor, task_id=task, number=number, data=data)

    def _latest_recovery(self, task_id: str) -> Recovery | None:
        task = key(task_id)
        return self._recoveries.get((task, len(self._attempts.get(task, ()))))
