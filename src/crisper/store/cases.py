"""Recoveries in SQL: taken, decided and completed by the batch, in a few statements whatever its size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from crisper.core.model import Case, Message, Recovery
from crisper.core.states import STANDS, VERDICT_MOVES, RecoveryState, may_decide
from crisper.core.text import as_json, storable
from crisper.core.verdict import Judgement, is_same_verdict, superseded_or_finished
from crisper.store import together
from crisper.store.database import Row
from crisper.store.rows import ATTEMPT, EVENT, RECOVERY, among, as_attempt, as_recovery

if TYPE_CHECKING:
    from crisper.store.sql.parts import Parts

#: How long a courier has a case to itself before another may take it, in ms of
#: the registry's clock. A crash gives it back sooner: the courier's incarnation
#: is then not alive any more. Longer than any publish that is going to succeed.
CASE_MS = 60_000

_TAKE = (
    "UPDATE crisper_recovery SET courier = ?, version = version + 1, due_at = ?"
    " WHERE task_id = ? AND number = ? AND version = ?"
)
_DECIDE = (
    "UPDATE crisper_recovery SET state = ?, verdict = ?, reason = ?, evidence = ?,"
    " decided_by = ?, decided_at = ?, due_at = ?, done_at = ?, version = version + 1"
    " WHERE task_id = ? AND number = ? AND version = ? AND state = ?"
)
_COMPLETE = (
    "UPDATE crisper_recovery SET state = 'done', sent_at = ?, done_at = ?, version = version + 1"
    " WHERE task_id = ? AND number = ? AND version = ? AND state = 'decided'"
)
_FORGET_MESSAGE = (
    "UPDATE crisper_attempt SET body = NULL, envelope = NULL"
    " WHERE task_id = ? AND number = ? AND state IN ('lost', 'revoked')"
)


def take(store: Parts, courier: str, scope: str, limit: int, again: bool) -> list[Case]:
    now = store.now()
    picked = store.db.rows(
        f"SELECT {RECOVERY} FROM crisper_recovery r WHERE scope = ? AND ("
        "   state IN ('pending', 'decided', 'waiting') AND (due_at IS NULL OR due_at <= ?)"
        "   OR state IN ('pending', 'decided') AND (courier = ? OR EXISTS ("
        "      SELECT 1 FROM crisper_incarnation i"
        "       WHERE i.id = r.courier AND i.state <> 'alive')))"
        f" ORDER BY created_at LIMIT ?{store.db.skip}",
        *(scope, now, courier if again else "", limit),
    )
    seen = sorted(map(as_recovery, picked), key=lambda one: (one.created_at, *_place(one)))
    due = now + CASE_MS
    if together.may(store, seen):
        together.take(store, seen, courier, due)
    else:
        store.db.each(_TAKE, [(courier, due, *_place(one), one.version) for one in seen])
    return _whole(store, [replace(r, courier=courier, due_at=due, version=r.version + 1) for r in seen])


def case(store: Parts, task_id: str, number: int) -> Case | None:
    rows = store.db.rows(
        f"SELECT {RECOVERY} FROM crisper_recovery WHERE task_id = ? AND number = ?", task_id, number
    )
    return next(iter(_whole(store, [as_recovery(row) for row in rows])), None)


def _whole(store: Parts, recoveries: Sequence[Recovery]) -> list[Case]:
    """Each with its attempt, its message, and what became of the task's other attempts."""
    if not recoveries:
        return []
    tasks = sorted({one.task_id for one in recoveries})
    others = _recoveries(store, tasks)
    attempts: dict[str, dict[int, Row]] = {task_id: {} for task_id in tasks}
    these, ids = among(tasks)
    for row in store.db.rows(
        f"SELECT {ATTEMPT}, body, envelope FROM crisper_attempt WHERE task_id {these}", *ids
    ):
        attempts[row[0]][row[1]] = row
    cases = []
    for recovery in recoveries:
        of_task = attempts[recovery.task_id]
        if recovery.number not in of_task:
            continue
        *_, body, envelope = row = of_task[recovery.number]
        attempt = as_attempt(row)
        message = Message(
            bytes(body) if body is not None else None,
            envelope or "{}",
            attempt.message_size,
            attempt.why_not_kept,
        )
        superseded, finished = superseded_or_finished(
            attempt.number,
            attempt.retries,
            [
                (number, other[_RETRIES], other[_STATE], lost.verdict if lost else None)
                for number, other in of_task.items()
                for lost in [others.get((recovery.task_id, number))]
            ],
        )
        waited = recovery.state is RecoveryState.WAITING
        cases.append(Case(recovery, attempt, message, superseded, finished, waited))
    return cases


def _recoveries(store: Parts, tasks: Sequence[str]) -> dict[tuple[str, int], Recovery]:
    """Every recovery of these tasks, by task and number."""
    these, ids = among(tasks)
    found = store.db.rows(f"SELECT {RECOVERY} FROM crisper_recovery WHERE task_id {these}", *ids)
    return {(one.task_id, one.number): one for one in map(as_recovery, found)}


_NAMES = ATTEMPT.split(", ")
_RETRIES, _STATE = _NAMES.index("retries"), _NAMES.index("state")


def decide(store: Parts, judgements: Sequence[Judgement], *, by: str) -> list[Recovery | None]:
    if not judgements:
        return []
    now, by = store.now(), storable(by)
    decided = [_as_decided(now, one, by) for one in judgements]
    seen = [old for old, _, _ in judgements]
    write = together.decide if together.may(store, seen) else _decide_each
    won = write(store, now, by, seen, decided)
    # A mended clock may have moved what was seen.
    stand = _recoveries(store, [old.task_id for old, _, _ in judgements])
    return [
        one if one is not None and (did or is_same_verdict(old, one, verdict.kind, by)) else None
        for (old, verdict, _), did in zip(judgements, won, strict=True)
        for one in [stand.get(_place(old))]  # forgotten, by now, if it was over for so long
    ]


def _decide_each(
    store: Parts, now: int, by: str, seen: Sequence[Recovery], decided: Sequence[Recovery]
) -> list[bool]:
    won = _in_order(
        store,
        _DECIDE,
        [
            (new.state, new.verdict, new.reason, as_json(new.evidence), by, now, new.due_at, new.done_at,
             *_place(old), old.version, old.state)
            for old, new in zip(seen, decided, strict=True)
        ],
        seen,
    )  # fmt: skip
    moved = [new for new, did in zip(decided, won, strict=True) if did]
    store.db.each(EVENT, [verdict_event(now, one) for one in moved])
    store.db.each(_FORGET_MESSAGE, [_place(one) for one in moved if together.is_over(one)])
    return won


def _in_order(store: Parts, sql: str, rows: Sequence[Row], of: Sequence[Recovery]) -> list[bool]:
    """Which of the rows changed something. They are written by task, against deadlocks."""
    order = sorted(range(len(rows)), key=lambda at: _place(of[at]))
    changed = dict(zip(order, store.db.each(sql, [rows[at] for at in order]), strict=True))
    return [bool(changed[at]) for at in range(len(rows))]


def _place(recovery: Recovery) -> tuple[str, int]:
    return recovery.task_id, recovery.number


def _as_decided(now: int, judgement: Judgement, by: str) -> Recovery:
    recovery, (kind, reason, evidence), due_in_ms = judgement
    if not may_decide(recovery.state, kind):
        raise ValueError(f"a recovery that is {recovery.state} cannot be decided as {kind}")
    state = VERDICT_MOVES[kind]
    return replace(
        recovery,
        state=state,
        version=recovery.version + 1,
        verdict=kind,
        reason=storable(reason),
        evidence=json.loads(as_json(evidence)),
        decided_by=by,
        decided_at=now,
        due_at=now + (CASE_MS if due_in_ms is None else due_in_ms),
        done_at=now if state is RecoveryState.DONE else None,
    )


def verdict_event(now: int, decided: Recovery) -> Row:
    """For `EVENT`."""
    return (now, "verdict", *_place(decided), None, None, decided.decided_by, together.told(decided))


def complete(store: Parts, recoveries: Sequence[tuple[Recovery, dict[str, Any]]], *, by: str) -> list[bool]:
    """Each with what its event shall tell."""
    now, by = store.now(), storable(by)
    seen = [one for one, _ in recoveries]
    if together.may(store, seen):
        told_of = [{"action": one.verdict, **told} for one, told in recoveries]
        return together.complete(store, now, by, seen, told_of)
    done = _in_order(store, _COMPLETE, [(now, now, *_place(one), one.version) for one in seen], seen)
    events: list[Row] = [
        (now, "recovered", *_place(one), None, None, by, as_json({"action": one.verdict, **told}))
        for (one, told), did in zip(recoveries, done, strict=True)
        if did
    ]
    store.db.each(EVENT, events)
    return done


def give_up(store: Parts, recovery: Recovery, by: str, why: str, due_in_ms: int) -> bool:
    now = store.now()
    again = (
        ""
        if recovery.state is not RecoveryState.DECIDED or recovery.verdict in STANDS
        else ", state = 'pending', verdict = NULL, decided_by = NULL, decided_at = NULL"
    )
    won = store.db.run(
        f"UPDATE crisper_recovery SET courier = NULL, due_at = ?, version = version + 1{again}"
        " WHERE task_id = ? AND number = ? AND version = ? AND state = ?",
        now + due_in_ms,
        *(recovery.task_id, recovery.number, recovery.version, recovery.state),
    )
    if won:
        delayed = (now, "recovery_delayed", recovery.task_id, recovery.number, None, None, storable(by))
        store.db.run(EVENT, *delayed, as_json({"why": why}))
    return bool(won)
