"""The columns that the hot statements name, and the values that their rows become."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from crisper.core.model import Attempt, Recovery, Worker
from crisper.core.states import OnLost, RecoveryState, State, VerdictKind, WorkerState

if TYPE_CHECKING:
    from crisper.store.database import Row

T = TypeVar("T")

IS_OPEN = "state IN ('claimed', 'running')"

ATTEMPT = (
    "task_id, number, message_id, name, queue, incarnation, seq, state, acks_late, dispatched,"
    " redelivered, retries, tag, copy_refused, pid, pid_start, on_lost, loss_budget, received_at,"
    " started_at, finished_at, runtime_ms, closed_seq, counted, reason, message_size, why_not_kept"
)
RECOVERY = (
    "task_id, number, message_id, name, scope, state, version, cause, losses, verdict, reason,"
    " evidence, courier, decided_by, created_at, decided_at, due_at, sent_at, done_at"
)
WORKER = (
    "id, hostname, scope, host, boot_id, pid_namespace, pid, pid_start, recorder_pid,"
    " recorder_start, lease_ms, heartbeat_ms, state, counter, generation, started_at, seen_at,"
    " ended_at, cleared, evidence, about, pulse"
)
EVENT = """
INSERT INTO crisper_event (at, kind, task_id, number, incarnation, seq, actor, data)
VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""


def among(values: Sequence[T]) -> tuple[str, list[T]]:
    """`IN (…)` and its parameters: repeated up to a power of two, so that few statements are prepared."""
    size = 1 << max(0, len(values) - 1).bit_length()
    return f"IN ({', '.join('?' * size)})", [*values, *[values[-1]] * (size - len(values))]


def as_attempt(row: Row) -> Attempt:
    (
        task_id, number, message_id, name, queue, incarnation, seq, state, acks_late, dispatched,
        redelivered, retries, tag, copy_refused, pid, pid_start, on_lost, loss_budget, received_at,
        started_at, finished_at, runtime_ms, closed_seq, counted, reason, size, why_not_kept,
    ) = row[:27]  # fmt: skip
    return Attempt(
        task_id, number, message_id, name, queue, incarnation, seq, State(state), bool(acks_late),
        bool(dispatched), bool(redelivered), retries, tag, bool(copy_refused), pid, pid_start,
        OnLost(on_lost), loss_budget, received_at, started_at, finished_at, runtime_ms, closed_seq,
        bool(counted), reason, size, why_not_kept,
    )  # fmt: skip


def as_recovery(row: Row) -> Recovery:
    (
        task_id, number, message_id, name, scope, state, version, cause, losses, verdict, reason,
        evidence, courier, decided_by, created_at, decided_at, due_at, sent_at, done_at,
    ) = row  # fmt: skip
    return Recovery(
        task_id, number, message_id, name, scope, RecoveryState(state), version, cause, losses,
        VerdictKind(verdict) if verdict else None, reason, json.loads(evidence), courier, decided_by,
        created_at, decided_at, due_at, sent_at, done_at,
    )  # fmt: skip


def as_worker(row: Row) -> Worker:
    (
        id, hostname, scope, host, boot_id, pid_namespace, pid, pid_start, recorder_pid, recorder_start,
        lease_ms, heartbeat_ms, state, counter, generation, started_at, seen_at, ended_at, cleared,
        evidence, about, pulse,
    ) = row  # fmt: skip
    return Worker(
        id, hostname, scope, host, boot_id, pid_namespace, pid, pid_start, recorder_pid, recorder_start,
        lease_ms, heartbeat_ms, WorkerState(state), counter, generation, started_at, seen_at, ended_at,
        bool(cleared), json.loads(evidence), json.loads(about), json.loads(pulse),
    )  # fmt: skip
