"""What most batches are made of, in one statement on PostgreSQL: claims of new tasks, starts and outcomes.

`crisper.store.sql.batch` does the same one row and several round trips at a time, and is asked
for whatever this leaves: a task that is on record already, an attempt that is not open any more.
The fence is read, and held, by the statement itself; without it nothing is written.

It takes half of the recorder's CPU and two thirds of the server's (`python bench/recording.py`,
docs/performance.md); JSON is what both ends read fastest.

Its plan is made once, most likely while the table is empty, and must stay right when a worker has thousands
open (`crisper.store.postgres`, PLANS). A condition that is always true (`BETWEEN`) has the server take the
records for few, so that it begins with them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from crisper.core.model import Answer, Claim, Fence, Finish, Note, Record, Start
from crisper.core.states import State

#: Larger messages go by themselves, as bytes: here they take twice their size.
LARGEST_BODY = 65_536
LARGEST_SEQ = 2**63 - 1
#: A person may have stopped it, or a copy of it was refused: these are looked at one by one.
_LOOKED_AT = (State.REVOKED, State.RELEASED)

STATEMENT = f"""
WITH fence AS MATERIALIZED (
  SELECT {{now}} AS now FROM crisper_incarnation
   WHERE id = %(id)s AND generation = %(generation)s AND state = 'alive'{{share}}),
claims AS (
  INSERT INTO crisper_attempt
         (task_id, number, message_id, name, queue, incarnation, seq, state, acks_late, dispatched,
          redelivered, retries, tag, copy_refused, on_lost, loss_budget, received_at, counted,
          args_preview, kwargs_preview, message_size, why_not_kept, envelope, body)
  SELECT task_id, 1, message_id, name, queue, %(id)s, seq, 'claimed', acks_late, dispatched,
         FALSE, retries, tag, FALSE, on_lost, loss_budget, now - age_ms, FALSE,
         args, kwargs, size, why_not, envelope, decode(body, 'hex')
    FROM fence, json_to_recordset(%(claims)s) AS c
         (task_id text, message_id text, name text, queue text, seq bigint, acks_late boolean,
          dispatched boolean, retries integer, tag text, on_lost text, loss_budget integer, age_ms bigint,
          args text, kwargs text, size bigint, why_not text, envelope text, body text)
      ON CONFLICT DO NOTHING RETURNING seq),
starts AS (
  UPDATE crisper_attempt a
     SET state = 'running', dispatched = TRUE, pid = s.pid, pid_start = s.pid_start,
         started_at = now - s.age_ms
    FROM fence, json_to_recordset(%(starts)s) AS s
         (task_id text, claim bigint, pid bigint, pid_start bigint, age_ms bigint)
   WHERE a.task_id = s.task_id AND incarnation = %(id)s AND seq = s.claim AND lower(a.state) = 'claimed'
     AND s.claim BETWEEN 0 AND {LARGEST_SEQ}),
finishes AS (
  UPDATE crisper_attempt a
     SET state = f.state, reason = f.reason, runtime_ms = f.runtime_ms, finished_at = now - f.age_ms,
         closed_seq = f.seq, started_at = COALESCE(a.started_at, now - f.age_ms - f.runtime_ms),
         pid = COALESCE(a.pid, f.pid), envelope = NULL, body = NULL
    FROM fence, json_to_recordset(%(finishes)s) AS f
         (task_id text, claim bigint, seq bigint, state text, reason text, runtime_ms bigint,
          pid bigint, age_ms bigint)
   WHERE a.task_id = f.task_id AND incarnation = %(id)s AND a.seq = f.claim
     AND lower(a.state) IN ('claimed', 'running') AND f.claim BETWEEN 0 AND {LARGEST_SEQ}
RETURNING a.closed_seq)
SELECT now, (SELECT array_agg(seq) FROM claims), (SELECT array_agg(closed_seq) FROM finishes) FROM fence"""


class AtOnce(NamedTuple):
    """Records of tasks that nothing else in the batch is about before them, by kind and task."""

    claims: list[Claim]
    starts: list[Start]
    finishes: list[Finish]

    def __bool__(self) -> bool:
        return any(self[:])

    def params(self, fence: Fence) -> dict[str, Any]:
        return {
            "id": fence.incarnation,
            "generation": fence.generation,
            "claims": json.dumps([_claim(one) for one in self.claims]),
            "starts": json.dumps([_start(one) for one in self.starts]),
            "finishes": json.dumps([_finish(one) for one in self.finishes]),
        }

    def written(self, claimed: Sequence[int], closed: Sequence[int]) -> Written:
        """What the statement did, by what it returned."""
        granted, over = set(claimed), set(closed)
        answers = {one.seq: Answer(one.seq, "granted", 1) for one in self.claims if one.seq in granted}
        answers |= {one.seq: Answer(one.seq, "closed") for one in self.finishes if one.seq in over}
        refused = {one.seq for one in self.claims} - granted
        return Written(answers, {one.claim_seq for one in self.starts}, refused)


class Written(NamedTuple):
    """What one statement has written."""

    answers: dict[int, Answer]
    started: set[int]  # claims
    refused: set[int]  # claims, because their tasks are on record

    def left(self, records: Sequence[Record]) -> list[Record]:
        """Those that it has not."""
        return [record for record in records if not self._has(record)]

    def answers_to(self, records: Sequence[Record]) -> list[Answer]:
        """In their order, and twice to what is there twice."""
        return [self.answers[r.seq] for r in records if not isinstance(r, Start) and r.seq in self.answers]

    def _has(self, record: Record) -> bool:
        if isinstance(record, Start):
            return record.claim_seq in self.started
        return record.seq in self.answers


NOTHING = Written({}, set(), set())


def at_once(records: Sequence[Record]) -> AtOnce:
    """Those of the records that one statement may write, whatever becomes of the rest after it."""
    chosen = AtOnce([], [], [])
    seen: set[str | None] = set()
    for record in sorted(records, key=_task):  # stable, and against deadlocks
        if record.task_id in seen or isinstance(record, Note):
            continue  # what follows a checkpoint is left as well
        seen.add(record.task_id)
        match record:
            case Claim() if not (record.redelivered or record.provisional or _is_large(record)):
                chosen.claims.append(record)
            case Start() if record.pid:
                chosen.starts.append(record)
            case Finish() if record.state not in _LOOKED_AT:
                chosen.finishes.append(record)
    return chosen


def _task(record: Record) -> str:
    return record.task_id or ""


def _is_large(claim: Claim) -> bool:
    return len(claim.message.body or b"") > LARGEST_BODY


def _claim(claim: Claim) -> dict[str, Any]:
    body = claim.message.body
    return {
        "task_id": claim.task_id,
        "message_id": claim.message_id,
        "name": claim.name,
        "queue": claim.queue,
        "seq": claim.seq,
        "acks_late": claim.acks_late,
        "dispatched": claim.dispatched,
        "retries": claim.retries,
        "tag": claim.tag,
        "on_lost": claim.on_lost,
        "loss_budget": claim.loss_budget,
        "age_ms": claim.age_ms,
        "args": claim.args_preview,
        "kwargs": claim.kwargs_preview,
        "size": claim.message.size,
        "why_not": claim.message.why_not,
        "envelope": claim.message.envelope,
        "body": None if body is None else body.hex(),
    }


def _start(start: Start) -> dict[str, Any]:
    return {
        "task_id": start.task_id,
        "claim": start.claim_seq,
        "pid": start.pid,
        "pid_start": start.pid_start,
        "age_ms": start.age_ms,
    }


def _finish(finish: Finish) -> dict[str, Any]:
    return {
        "task_id": finish.task_id,
        "claim": finish.claim_seq,
        "seq": finish.seq,
        "state": finish.state,
        "reason": finish.reason,
        "runtime_ms": finish.runtime_ms,
        "pid": finish.pid,
        "age_ms": finish.age_ms,
    }
