"""What the acceptance tests look at beside the ledger: the broker itself, the record, the processes."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import redis
from kombu import Connection

from crisper.errors import RegistryError
from tests.fleet import Fleet, wait_for


def messages_left(fleet: Fleet) -> tuple[int, int]:
    """`(waiting, unacknowledged)` of the default queue; RabbitMQ tells the second only once its
    holder has let go, so stop the workers first."""
    url = fleet.environment["FLEET_BROKER"]
    if url.startswith("filesystem"):
        return len(list((fleet.folder / "queue").iterdir())), 0
    if url.startswith("redis"):
        with redis.Redis.from_url(url) as client:
            return int(client.llen("celery")), int(client.hlen("unacked"))
    with Connection(url) as connection:
        return int(connection.default_channel.queue_declare("celery", passive=True).message_count), 0


def nothing_left_in_the_broker(fleet: Fleet, seconds: float = 40.0) -> None:
    """What nobody has kept for two periods is handed back, and a period is a heartbeat (4 s)."""
    wait_for("an empty broker", lambda: messages_left(fleet) == (0, 0), seconds)


def is_recorded(fleet: Fleet) -> bool:
    """Whether any worker has enrolled: on a busy machine it may be ready before its recorder is."""
    with contextlib.suppress(RegistryError):
        return bool(fleet.incarnations())
    return False


def events(fleet: Fleet, kind: str) -> list[tuple[str | None, dict[str, Any]]]:
    """`(task id, data)` of every event of that kind, oldest first."""
    rows = fleet.rows("SELECT task_id, data FROM crisper_event WHERE kind = ? ORDER BY id", kind)
    return [(task_id, json.loads(data)) for task_id, data in rows]


def is_known_to_have_ended(fleet: Fleet, id: str) -> bool:
    """By its outcome; or, where that died with parent and recorder, by its result."""
    number, state = fleet.attempts(id)[-1]
    return state == "succeeded" or (number, "done", "settled") in fleet.recoveries(id)


def losses(fleet: Fleet) -> int:
    """Incarnations ever declared lost."""
    return int(fleet.rows("SELECT count(*) FROM crisper_incarnation WHERE state = 'lost'")[0][0])


def how_lost(fleet: Fleet, name: str) -> list[str]:
    """How each lost incarnation of the worker was judged."""
    sql = "SELECT evidence FROM crisper_incarnation WHERE hostname = ? AND state = 'lost' ORDER BY started_at"
    return [json.loads(row[0])["how"] for row in fleet.rows(sql, f"{name}@test")]


def is_running(pid: int) -> bool:
    """Whether there is such a process and it is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def resident_mb(pid: int) -> float:
    """Resident memory of the process, in MB (10^6 bytes)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def declare_lost(fleet: Fleet) -> None:
    """As a sweeper would that had seen it silent: by compare-and-set on its counter."""

    def won() -> bool:
        with fleet.store() as store:
            [one] = store.alive()
            return store.declare_lost(one.id, one.counter, by="test", evidence={"how": "silence"})

    wait_for("declared", won)
