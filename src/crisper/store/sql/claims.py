"""The gate: who may run a delivery."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cached_property

from crisper.core.gate import DOUBTED, Decision, Latest, Owner, Ruling, has_journal, rule, ruled_later
from crisper.core.model import Attempt, Claim
from crisper.core.states import State
from crisper.core.verdict import DEAD_LETTERED
from crisper.store import checkpoints
from crisper.store.rows import ATTEMPT, RECOVERY, among, as_attempt, as_recovery
from crisper.store.sql.grants import Grant, Grants, Known

#: How often a claim is ruled upon whose facts move under the answer.
RULINGS = 3


class Claims(Grants):
    """The claims of one batch, ruled upon by what is on record of their tasks."""

    def _claims(self, claims: Sequence[Claim], tried: Collection[int]) -> None:
        """A task's first claim needs no look at the past: attempt 1 exists or it does not. What was `tried`
        does, and what the broker says it delivers again most likely does."""
        earliest = {claim.task_id: claim for claim in reversed(claims)}
        may_be_first = [c for c in earliest.values() if not c.redelivered and c.seq not in tried]
        opened = self._open_first(sorted(may_be_first, key=lambda c: c.task_id))
        for claim in claims:
            if claim.seq in opened:
                self._answer(claim.seq, "granted", 1)
        first = len(self.answers)
        left = sorted((c for c in claims if c.seq not in opened), key=lambda c: c.task_id)
        refused = self._refused_before([c.seq for c in left])
        for claim in left:
            if claim.seq in refused:
                self._answer(claim.seq, *refused[claim.seq])
        self._claim_known([c for c in left if c.seq not in refused])
        self._hand_on(first, {claim.seq: claim.task_id for claim in left})

    def _hand_on(self, since: int, tasks: dict[int, str]) -> None:
        """Attempts that are not their task's first go on from its last checkpoint."""
        later = {a.seq for a in self.answers[since:] if a.kind == "granted" and a.number > 1}
        if not later:
            return
        last = checkpoints.last(self.store, {tasks[seq] for seq in later})
        for at in range(since, len(self.answers)):
            answer = self.answers[at]
            if answer.seq in later and (data := last.get(tasks[answer.seq])):
                self.answers[at] = answer._replace(checkpoint=data)

    def _is_doubted(self, claim: Claim) -> bool:
        """A redelivered one that is not on record, while a worker that nobody hears of, or that has a journal
        to replay, may have run it: only it can say whether it has finished. What has come on record since
        this was read has the number that a grant would take."""
        doubtful = claim.redelivered and not claim.provisional and self.judges
        return doubtful and self._somebody_is_unheard

    @cached_property
    def _somebody_is_unheard(self) -> bool:
        rows = self.db.rows(
            "SELECT id, pulse FROM crisper_incarnation WHERE state = 'alive' AND NOT cleared AND id <> ?"
            " AND scope = (SELECT me.scope FROM crisper_incarnation me WHERE me.id = ?)",
            *(self.fence.incarnation, self.fence.incarnation),
        )
        return any(id not in self.renewing or has_journal(json.loads(pulse)) for id, pulse in rows)

    def _refused_before(self, seqs: Sequence[int]) -> dict[int, tuple[str, int, str]]:
        """Claims that this incarnation was refused already, with what they were answered."""
        if not seqs:
            return {}
        rows = self.db.rows(
            "SELECT seq, kind, number, data FROM crisper_event"
            " WHERE incarnation = ? AND seq BETWEEN ? AND ? AND kind IN ('refused', 'overlap')",
            *(self.fence.incarnation, min(seqs), max(seqs)),
        )
        return {
            seq: (kind, number or 0, json.loads(data).get("reason", "")) for seq, kind, number, data in rows
        }

    def _claim_known(self, claims: Sequence[Claim]) -> None:
        """Their tasks may be on record: ask the gate, and again if its facts moved under the answer."""
        moved: Counter[int] = Counter()
        while claims:
            known = self._known({claim.task_id for claim in claims})
            grants: list[Grant] = []
            later: list[Claim] = []
            again: list[Claim] = []
            for claim in claims:
                seen = known.pop(claim.task_id, None)
                if seen is None:  # another claim of this task may change what was read
                    later.append(claim)
                elif moved[claim.seq] == RULINGS:
                    self._answer(claim.seq, "parked", 0, "its registry rows keep moving")
                elif not self._ruled(claim, seen, grants):
                    again.append(claim)
            again += self._open(grants)
            moved.update(claim.seq for claim in again)
            claims = sorted([*later, *again], key=lambda c: c.task_id)

    def _ruled(self, claim: Claim, known: list[Known], grants: list[Grant]) -> bool:
        """Answer it, or add it to the grants; False if what it was decided on has moved."""
        mine = [k.attempt for k in known if self._is(k.attempt, claim.seq)]
        if mine:
            self._answer_granted([(claim, mine[0].number)])
            return True
        born = [a for a, *_ in known if (a.incarnation, a.seq) == (claim.provisional, claim.seq)]
        if born:
            self._answer(claim.seq, "overlap", born[0].number, "it was on record, and is fenced")
            return True
        same = [k for k in known if k.attempt.message_id == claim.message_id]
        latest = same[-1] if same else None
        if latest is None and self._is_doubted(claim):
            self._answer(claim.seq, "parked", 0, DOUBTED)
            return True
        facts = self._latest(latest, claim.age_ms) if latest else None
        decision = rule(
            facts,
            redelivered=claim.redelivered,
            identified=claim.identified,
            newer=latest is None or (claim.seq > latest.attempt.seq and not claim.copy),
        )
        if claim.provisional:
            decision = ruled_later(decision, facts, given_back=claim.given_back)
        if decision.ruling is Ruling.GRANT:
            before = known[-1].attempt if known else None
            was_lost = any(one.recovery for one in known)
            grants.append(Grant(claim, before.number + 1 if before else 1, latest, before, was_lost))
            return True
        return self._carry_out(claim, decision, latest)

    def _known(self, tasks: Collection[str]) -> dict[str, list[Known]]:
        """All that is on record of each task, in order; its recoveries stay as they are until commit."""
        known: dict[str, list[Known]] = {task_id: [] for task_id in tasks}
        if not tasks:
            return known
        these, ids = among(sorted(tasks))
        attempts = self.db.rows(
            f"SELECT {ATTEMPT}, body IS NOT NULL FROM crisper_attempt WHERE task_id {these}"
            " ORDER BY task_id, number",
            *ids,
        )
        recoveries = {
            (row[0], row[1]): as_recovery(row)
            for row in self.db.rows(
                f"SELECT {RECOVERY} FROM crisper_recovery WHERE task_id {these}"
                f" ORDER BY task_id, number{self.db.lock}",
                *ids,
            )
        }
        for row in attempts:
            known[row[0]].append(Known(as_attempt(row), recoveries.get((row[0], row[1])), bool(row[-1])))
        return known

    def _is(self, attempt: Attempt, seq: int) -> bool:
        return attempt.incarnation == self.fence.incarnation and attempt.seq == seq

    def _latest(self, known: Known, waited_ms: int) -> Latest:
        """`waited_ms`: for so long the delivery has waited here, by a clock that cannot step."""
        attempt, recovery, kept = known
        return Latest(
            number=attempt.number,
            state=attempt.state,
            owner=self._owner(attempt.incarnation),
            dispatched=attempt.dispatched,
            kept=kept,
            on_lost=attempt.on_lost,
            ran=attempt.counted,
            losses=recovery.losses if recovery else 0,
            loss_budget=attempt.loss_budget,
            recovery=recovery.state if recovery else None,
            verdict=recovery.verdict if recovery else None,
            undecided_ms=min(waited_ms, self.now - recovery.created_at) if recovery else 0,
            dead_lettered=bool(recovery and recovery.evidence.get(DEAD_LETTERED)),
        )

    def _owner(self, incarnation: str) -> Owner:
        if incarnation == self.fence.incarnation:
            return Owner.SELF
        return Owner.RENEWING if incarnation in self.renewing else Owner.UNJUDGED

    def _carry_out(self, claim: Claim, decision: Decision, latest: Known | None) -> bool:
        """Write the gate's ruling; False if what it was decided on has moved."""
        match decision.ruling:
            case Ruling.REGRANT if latest:
                return self._regrant(claim, latest.attempt)
            case Ruling.REFUSE if latest:
                return self._refuse(claim, decision.reason, latest.attempt)
            case Ruling.OVERLAP if latest:
                self._no_attempt("overlap", claim, decision.reason, latest.attempt.number)
                return True
        self._answer(claim.seq, decision.ruling.value, 0, decision.reason)
        return True

    def _regrant(self, claim: Claim, attempt: Attempt) -> bool:
        won = self.db.run(
            "UPDATE crisper_attempt SET seq = ?, tag = ?, dispatched = ?"
            " WHERE task_id = ? AND number = ? AND incarnation = ? AND seq = ?"
            " AND state = 'claimed' AND NOT dispatched",
            *(claim.seq, claim.tag, claim.dispatched),
            *(attempt.task_id, attempt.number, self.fence.incarnation, attempt.seq),
        )
        if won:
            self._answer_granted([(claim, attempt.number)])
        return bool(won)

    def _refuse(self, claim: Claim, reason: str, attempt: Attempt) -> bool:
        """Acknowledging destroys the delivery, so what makes it safe is repeated here."""
        if attempt.state is State.RUNNING and not self.db.run(
            "UPDATE crisper_attempt SET copy_refused = TRUE WHERE task_id = ? AND number = ?"
            " AND incarnation = ? AND state = 'running' AND body IS NOT NULL AND EXISTS (SELECT 1 FROM"
            " crisper_incarnation i WHERE i.id = incarnation AND i.state = 'alive')",
            *(attempt.task_id, attempt.number, attempt.incarnation),
        ):
            return False
        self._no_attempt("refused", claim, reason, attempt.number)
        return True

    def _no_attempt(self, kind: str, claim: Claim, reason: str, number: int) -> None:
        """The claim opens none; the event says so if it is asked again."""
        self.store._event(
            self.now - claim.age_ms,
            kind,
            task_id=claim.task_id,
            number=number,
            incarnation=self.fence.incarnation,
            seq=claim.seq,
            actor="gate",
            data={"reason": reason, "redelivered": claim.redelivered},
        )
        self._answer(claim.seq, kind, number, reason)
