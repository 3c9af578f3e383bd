"""What a person, and the broker itself, would be told about a fleet."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from crisper.core.states import RecoveryState, State, VerdictKind, task_state
from tests.fleet import Fleet


def crisper(fleet: Fleet, *arguments: str) -> Any:
    """What the command line answers, with the fleet's app."""
    command = [sys.executable, "-m", "crisper", "-A", "tests.fleet_app", *arguments, "--json"]
    done = subprocess.run(
        command, env=fleet.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def state_of(fleet: Fleet, task_id: str) -> str | None:
    """The word that people see for the task."""
    rows = fleet.rows(
        "SELECT a.state, r.state, r.verdict FROM crisper_attempt a LEFT JOIN crisper_recovery r"
        " ON r.task_id = a.task_id AND r.number = a.number WHERE a.task_id = ?"
        " ORDER BY a.number DESC LIMIT 1",
        task_id,
    )
    if not rows:
        return None
    attempt, recovery, verdict = rows[0]
    return task_state(
        State(str(attempt)),
        RecoveryState(str(recovery)) if recovery else None,
        VerdictKind(str(verdict)) if verdict else None,
    )


def in_broker(fleet: Fleet, queue: str = "celery") -> int:
    """Messages that wait in the queue, and on Redis those that were delivered and not acknowledged."""
    with fleet.app.connection_for_write() as connection:
        channel = connection.default_channel
        if connection.transport.driver_type == "amqp":
            return int(channel.queue_declare(queue=queue, passive=True).message_count)
        held = channel.client.hlen(channel.unacked_key) if hasattr(channel, "unacked_key") else 0
        return int(channel._size(queue)) + int(held)
