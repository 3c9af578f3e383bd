"""Messages on record from when they are published until they are claimed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crisper.core.model import Attempt, Look, Published, Recovery
from crisper.core.states import OnLost, RecoveryState, State
from crisper.core.text import key, storable
from crisper.store.memory.tables import Tables, plain

#: As on a server: how long a courier has a message to look for to itself.
LOOK_MS = 60_000


class Publishes(Tables):
    """The verbs of publishers, and of those who look for what vanished."""

    def publish(self, messages: Sequence[Published], *, due_in_ms: int) -> None:
        with self._lock:
            for one in messages:
                at = self._clock() - one.age_ms
                stored = one._replace(
                    message_id=key(one.message_id), task_id=key(one.task_id), name=storable(one.name),
                    queue=storable(one.queue), age_ms=at, delay_ms=0, missing=0, vanished=0,
                )  # fmt: skip
                self._published.setdefault(stored.message_id, (stored, at + one.delay_ms + due_in_ms))

    def retract(self, message_id: str) -> None:
        with self._lock:
            self._published.pop(key(message_id), None)

    def take_unclaimed(self, scope: str, *, limit: int) -> list[Published]:
        with self._lock:
            now = self._clock()
            due = sorted((at, id) for id, (one, at) in self._published.items() if one.scope == scope)
            taken: list[Published] = []
            for at, id in due:
                one, _ = self._published[id]
                if at > now or len(taken) == limit:
                    break
                if self._is_claimed(one):
                    del self._published[id]
                    continue
                self._published[id] = one, now + LOOK_MS
                taken.append(one._replace(age_ms=max(0, now - one.age_ms), until=now + LOOK_MS))
            return taken

    def _is_claimed(self, one: Published) -> bool:
        """A vanished message's own lost attempts have no incarnation."""
        known = self._attempts.get(one.task_id, ())
        return any(a.message_id == one.message_id and a.incarnation for a in known)

    def look_again(self, looks: Sequence[Look]) -> None:
        with self._lock:
            for look in looks:
                one, until = self._published.get(key(look.message_id), (None, 0))
                if one is not None and until == look.until:
                    due = self._clock() + look.due_in_ms
                    self._published[one.message_id] = one._replace(missing=look.missing), due

    def declare_vanished(
        self, messages: Sequence[tuple[str, int]], *, by: str, evidence: dict[str, Any], due_in_ms: int
    ) -> list[str]:
        with self._lock:
            known = [(self._published.get(key(id)), until) for id, until in messages]
            mine = [found[0] for found, until in known if found is not None and found[1] == until]
            vanished = [one for one in mine if not self._is_claimed(one)]
            for one in vanished:
                self._vanish(one, by, {**evidence, "times": one.vanished + 1})
                if one.vanished:
                    del self._published[one.message_id]
                else:
                    again = one._replace(vanished=1, missing=0)
                    self._published[one.message_id] = again, self._clock() + due_in_ms
            return [one.task_id for one in vanished]

    def _vanish(self, one: Published, by: str, evidence: dict[str, Any]) -> None:
        now, attempts = self._clock(), self._attempts.setdefault(one.task_id, [])
        number = len(attempts) + 1
        attempts.append(
            Attempt(
                one.task_id, number, one.message_id, one.name, one.queue, "", 0, State.LOST, True, False,
                False, one.retries, "", False, None, None, OnLost.RESEND, one.loss_budget, one.age_ms, None,
                now, None, None, False, "vanished", one.message.size, one.message.why_not,
            )
        )  # fmt: skip
        self._messages[one.task_id, number] = one.message
        cause = "vanished again" if one.vanished else "vanished"
        self._recoveries[one.task_id, number] = Recovery(
            one.task_id, number, one.message_id, one.name, one.scope, RecoveryState.PENDING, 1, cause, 0,
            None, None, plain(evidence), None, None, now, None, None, None, None,
        )  # fmt: skip
        self._event(now, "vanished", actor=by, task_id=one.task_id, number=number, data=evidence)
