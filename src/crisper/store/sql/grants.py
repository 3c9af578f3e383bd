"""Opening attempts of tasks that have a past: all that a batch grants, a statement at a time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from crisper.core.gate import goes_on
from crisper.core.model import Attempt, Claim, Recovery
from crisper.core.states import HAVE_RECOVERIES, RecoveryState, VerdictKind
from crisper.core.verdict import stopped_by
from crisper.store.cases import verdict_event
from crisper.store.database import Row
from crisper.store.rows import ATTEMPT, EVENT, among
from crisper.store.sql.outcomes import Outcomes

_INSERT_ATTEMPT = f"""
INSERT INTO crisper_attempt ({ATTEMPT}, args_preview, kwargs_preview, envelope, body)
VALUES (?, ?, ?, ?, ?, ?, ?, 'claimed', ?, ?, ?, ?, ?, FALSE, NULL, NULL, ?, ?, ?,
        NULL, NULL, NULL, NULL, FALSE, NULL, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING"""

#: The order follows the task to its next attempt.
_FOLLOW = """
UPDATE crisper_order SET number = ?, incarnation = ?
 WHERE task_id = ? AND number = ? AND done_at IS NULL"""

#: Its recoveries led to an attempt: they are not looked at for what is still on its way.
_FOLLOWED = """
UPDATE crisper_recovery SET followed_at = ?
 WHERE task_id {tasks} AND followed_at IS NULL AND number < (
       SELECT max(a.number) FROM crisper_attempt a WHERE a.task_id = crisper_recovery.task_id)"""

#: The new attempt keeps it. Of each task its own: another's message may bear the same name.
_FORGET_MESSAGE = """
UPDATE crisper_attempt SET body = NULL, envelope = NULL
 WHERE task_id {tasks} AND (task_id, message_id) IN (VALUES {messages})
   AND lower(state) IN ('lost', 'revoked')"""


class Known(NamedTuple):
    """An attempt that the gate finds on record."""

    attempt: Attempt
    recovery: Recovery | None
    kept: bool


class Grant(NamedTuple):
    """What the gate has granted, on what is known of the task."""

    claim: Claim
    number: int
    latest: Known | None  # attempt of this message
    before: Attempt | None  # the task's latest, of whichever message
    was_lost: bool  # any of the task's attempts

    @property
    def forgets(self) -> bool:
        """Whether the lost attempt's message is kept with the new one now."""
        lost = self.latest is not None and self.latest.attempt.state in HAVE_RECOVERIES
        return lost and self.claim.message.body is not None

    @property
    def followed(self) -> Attempt | None:
        return goes_on(self.claim, self.latest.attempt if self.latest else None, self.before)


class Grants(Outcomes):
    """Attempts, opened together."""

    def _open_first(self, claims: Sequence[Claim]) -> set[int]:
        """Those that are their task's first; a task that is on record already is left alone."""
        done = self.db.each(_INSERT_ATTEMPT, [self._row(claim, 1) for claim in claims])
        return {claim.seq for claim, inserted in zip(claims, done, strict=True) if inserted}

    def _open(self, grants: Sequence[Grant]) -> list[Claim]:
        """Claims that are to be ruled upon again, because what they were granted on has moved."""
        ready = [one for one in grants if self._overtakes(one.latest.recovery if one.latest else None)]
        done = self.db.each(_INSERT_ATTEMPT, [self._row(one.claim, one.number) for one in ready])
        opened = [one for one, inserted in zip(ready, done, strict=True) if inserted]
        self._forget([one.claim for one in opened if one.forgets])
        self._followed([one.claim.task_id for one in opened if one.was_lost])
        self._follow(opened)
        self._answer_granted([(one.claim, one.number) for one in opened])
        seqs = {one.claim.seq for one in opened}
        return [one.claim for one in grants if one.claim.seq not in seqs]

    def _forget(self, claims: Sequence[Claim]) -> None:
        if claims:
            tasks, ids = among([claim.task_id for claim in claims])
            _, names = among([claim.message_id for claim in claims])
            messages = ", ".join(["(?, ?)"] * len(ids))
            pairs = itertools.chain.from_iterable(zip(ids, names, strict=True))
            self.db.run(_FORGET_MESSAGE.format(tasks=tasks, messages=messages), *ids, *pairs)

    def _followed(self, task_ids: Sequence[str]) -> None:
        if task_ids:
            tasks, ids = among(task_ids)
            self.db.run(_FOLLOWED.format(tasks=tasks), self.now, *ids)

    def _follow(self, opened: Sequence[Grant]) -> None:
        """Whoever orders the earlier attempt to stop holds it meanwhile: one of us sees the other."""
        follows = [(one, attempt) for one in opened if (attempt := one.followed) is not None]
        if not follows:
            return
        these, ids = among([attempt.task_id for _, attempt in follows])
        self.db.rows(
            f"SELECT 1 FROM crisper_attempt WHERE task_id {these} ORDER BY task_id, number{self.db.lock}",
            *ids,
        )
        me = self.fence.incarnation
        self.db.each(_FOLLOW, [(one.number, me, attempt.task_id, attempt.number) for one, attempt in follows])

    def _answer_granted(self, granted: Sequence[tuple[Claim, int]]) -> None:
        """Of tasks with a past; a person may have ordered one to stop."""
        if not granted:
            return
        these, ids = among([claim.task_id for claim, _ in granted])
        ordered = {
            (task_id, number): by
            for task_id, number, *by in self.db.rows(
                "SELECT task_id, number, ordered_by, reason FROM crisper_order"
                f" WHERE task_id {these} AND done_at IS NULL",
                *ids,
            )
        }
        for claim, number in granted:
            if by := ordered.get((claim.task_id, number)):
                self._answer(claim.seq, "stopped", number, stopped_by(*by))
            else:
                self._answer(claim.seq, "granted", number)

    def _overtakes(self, recovery: Recovery | None) -> bool:
        """The message came by itself before its recovery was complete: that ends the recovery."""
        if recovery is None or recovery.state is RecoveryState.DONE:
            return True
        verdict = recovery.verdict or VerdictKind.REDELIVERED
        reason = recovery.reason or "the broker delivered its message again"
        won = self.db.run(
            "UPDATE crisper_recovery SET state = 'done', verdict = ?, reason = ?, done_at = ?,"
            " decided_by = COALESCE(decided_by, 'gate'), decided_at = COALESCE(decided_at, ?),"
            " version = version + 1 WHERE task_id = ? AND number = ? AND version = ? AND state = ?",
            *(verdict, reason, self.now, self.now),
            *(recovery.task_id, recovery.number, recovery.version, recovery.state),
        )
        if won and recovery.verdict is None:
            evidence = {"claimed_by": self.fence.incarnation, **recovery.evidence}
            told = replace(recovery, verdict=verdict, reason=reason, evidence=evidence, decided_by="gate")
            self.db.run(EVENT, *verdict_event(self.now, told))
        return bool(won)

    def _row(self, claim: Claim, number: int) -> Row:
        return (
            *(claim.task_id, number, claim.message_id, claim.name, claim.queue),
            *(self.fence.incarnation, claim.seq, claim.acks_late, claim.dispatched),
            *(claim.redelivered, claim.retries, claim.tag, claim.on_lost, claim.loss_budget),
            *(self.now - claim.age_ms, claim.message.size, claim.message.why_not),
            *(claim.args_preview, claim.kwargs_preview),
            *(claim.message.envelope, claim.message.body),
        )
