"""Recoveries of a whole batch in one statement each, where the database takes its rows as JSON (PostgreSQL).

`crisper.store.cases` does the same a row at a time, for the others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from crisper.core.model import Recovery
from crisper.core.states import RecoveryState, VerdictKind
from crisper.core.text import as_json
from crisper.store.database import Row

if TYPE_CHECKING:
    from crisper.store.sql.parts import Parts

#: Recoveries as they were seen, and what is to become of them.
_GIVEN = (
    "json_to_recordset(?) AS g (task_id text, number integer, version integer, was text, state text,"
    " verdict text, reason text, evidence text, due_at bigint, done_at bigint, told text, over boolean)"
)
_OF_GIVEN = (
    "r.task_id = g.task_id AND r.number = g.number AND r.version = g.version"
    f" AND g.number BETWEEN 0 AND {2**31 - 1}"  # so that the server begins with them
)
_TAKE = f"""
UPDATE crisper_recovery r SET courier = ?, version = r.version + 1, due_at = ?
  FROM {_GIVEN} WHERE {_OF_GIVEN}"""
_DECIDE = f"""
WITH given AS MATERIALIZED (SELECT * FROM {_GIVEN}),
won AS (
  UPDATE crisper_recovery r
     SET state = g.state, verdict = g.verdict, reason = g.reason, evidence = g.evidence, decided_by = ?,
         decided_at = ?, due_at = g.due_at, done_at = g.done_at, version = r.version + 1
    FROM given g WHERE {_OF_GIVEN} AND r.state = g.was
  RETURNING r.task_id, r.number),
told AS (
  INSERT INTO crisper_event (at, kind, task_id, number, incarnation, seq, actor, data)
  SELECT ?, 'verdict', task_id, number, NULL, NULL, ?, told FROM given JOIN won USING (task_id, number)),
forgotten AS (
  UPDATE crisper_attempt a SET body = NULL, envelope = NULL
    FROM given g JOIN won USING (task_id, number)
   WHERE g.over AND a.task_id = g.task_id AND a.number = g.number AND lower(a.state) IN ('lost', 'revoked'))
SELECT task_id, number FROM won"""
_COMPLETE = f"""
WITH given AS MATERIALIZED (SELECT * FROM {_GIVEN}),
won AS (
  UPDATE crisper_recovery r SET state = 'done', sent_at = ?, done_at = ?, version = r.version + 1
    FROM given g WHERE {_OF_GIVEN} AND lower(r.state) = 'decided'
  RETURNING r.task_id, r.number),
told AS (
  INSERT INTO crisper_event (at, kind, task_id, number, incarnation, seq, actor, data)
  SELECT ?, 'recovered', task_id, number, NULL, NULL, ?, told FROM given JOIN won USING (task_id, number))
SELECT task_id, number FROM won"""


def may(store: Parts, seen: Sequence[Recovery]) -> bool:
    """Whether one statement does for all: it changes no row twice."""
    return store.db.combines and 0 < len(seen) == len(set(map(_place, seen)))


def take(store: Parts, seen: Sequence[Recovery], courier: str, due: int) -> None:
    store.db.run(_TAKE, courier, due, _given([_seen(one) for one in seen]))


def decide(
    store: Parts, now: int, by: str, seen: Sequence[Recovery], decided: Sequence[Recovery]
) -> list[bool]:
    """Which of them moved."""
    given = [
        {
            **_seen(old),
            "was": old.state,
            "state": new.state,
            "verdict": new.verdict,
            "reason": new.reason,
            "evidence": as_json(new.evidence),
            "due_at": new.due_at,
            "done_at": new.done_at,
            "told": told(new),
            "over": is_over(new),
        }
        for old, new in zip(seen, decided, strict=True)
    ]
    return _who_won(store.db.rows(_DECIDE, _given(given), by, now, now, by), seen)


def complete(
    store: Parts, now: int, by: str, seen: Sequence[Recovery], told_of: Sequence[dict[str, Any]]
) -> list[bool]:
    """Which of them moved; each with what its event shall tell."""
    given = [{**_seen(one), "told": as_json(told)} for one, told in zip(seen, told_of, strict=True)]
    return _who_won(store.db.rows(_COMPLETE, _given(given), now, now, now, by), seen)


def is_over(decided: Recovery) -> bool:
    """Whether its message is not needed any more."""
    return decided.state is RecoveryState.DONE and decided.verdict is not VerdictKind.DISCARD


def told(decided: Recovery) -> str:
    """In the event of its verdict."""
    data = {"verdict": decided.verdict, "reason": decided.reason, "evidence": decided.evidence}
    return as_json(data)


def _seen(recovery: Recovery) -> dict[str, Any]:
    return {"task_id": recovery.task_id, "number": recovery.number, "version": recovery.version}


def _given(rows: Sequence[dict[str, Any]]) -> str:
    """They are written by task, against deadlocks."""
    return json.dumps(sorted(rows, key=lambda row: (row["task_id"], row["number"])))


def _who_won(rows: Sequence[Row], seen: Sequence[Recovery]) -> list[bool]:
    won = {(task_id, number) for task_id, number in rows}
    return [_place(one) in won for one in seen]


def _place(recovery: Recovery) -> tuple[str, int]:
    return recovery.task_id, recovery.number
