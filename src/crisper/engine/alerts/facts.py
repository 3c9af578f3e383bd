"""One look at the registry for what is worth an alert."""

from __future__ import annotations

import json
from typing import Any

from crisper.engine.alerts.incident import BRAKE, QUARANTINE, SWEEPER_SILENT, WORKER_LOST, Facts, Members
from crisper.store.sql import SqlStore

#: Workers lost longer ago are no news; a brake that held lately is on.
NEWS_MS, BRAKE_MS = 3_600_000, 300_000
#: Of a kind, in one look. More are told with the next.
MOST = 300

_LOST = """
SELECT id, hostname, evidence FROM crisper_incarnation
 WHERE state = 'lost' AND ended_at > ? ORDER BY ended_at DESC LIMIT ?"""
_BUSY = """
SELECT id FROM crisper_incarnation WHERE state = 'lost' AND NOT cleared
 UNION SELECT a.incarnation FROM crisper_recovery r
  JOIN crisper_attempt a ON a.task_id = r.task_id AND a.number = r.number
 WHERE r.state IN ('pending', 'decided', 'waiting')"""
_QUARANTINED = """
SELECT r.task_id, r.number, r.name, r.losses FROM crisper_recovery r
 WHERE r.state = 'quarantined' AND NOT EXISTS (
       SELECT 1 FROM crisper_attempt a WHERE a.task_id = r.task_id AND a.number > r.number)
 ORDER BY r.created_at DESC LIMIT ?"""
_BRAKED = "SELECT id, data FROM crisper_event WHERE at > ? AND kind = 'brake' ORDER BY id DESC LIMIT ?"


def look_at(store: SqlStore, *, silent_for: float, silence: float) -> Facts:
    """`silent_for`: seconds since the sweeper was last seen at work; `silence`: how many are too many.

    Raises `RegistryUnreachable`.
    """
    with store.db.write():
        now = store.now()
        lost = {
            str(id): {"worker": str(hostname), "how": _how(evidence)}
            for id, hostname, evidence in store.db.rows(_LOST, now - NEWS_MS, MOST)
        }
        busy = {str(row[0]) for row in store.db.rows(_BUSY)}
        quarantined: Members = {
            f"{task_id}/{number}": {"task_id": str(task_id), "name": str(name), "losses": int(losses)}
            for task_id, number, name, losses in store.db.rows(_QUARANTINED, MOST)
        }
        braked = {
            str(id): {key: _plain(data).get(key) for key in ("silent", "alive")}
            for id, data in store.db.rows(_BRAKED, now - BRAKE_MS, MOST)
        }
    mute: Members = {"sweeper": {"seconds": round(silent_for)}} if silent_for > silence else {}
    begins = {WORKER_LOST: lost, QUARANTINE: quarantined, BRAKE: braked, SWEEPER_SILENT: mute}
    return Facts(now, begins, {**{kind: set(found) for kind, found in begins.items()}, WORKER_LOST: busy})


def _how(evidence: Any) -> str:
    return str(_plain(evidence).get("how", ""))


def _plain(text: Any) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
