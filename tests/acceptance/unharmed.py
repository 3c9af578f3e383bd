"""The law of every outage, restart and shutdown: nobody is declared lost, each task runs once, on record."""

from __future__ import annotations

from collections import Counter

from tests.acceptance.watching import losses, nothing_left_in_the_broker
from tests.fleet import Fleet, wait_for


def all_run_once(fleet: Fleet, sent: list[str], seconds: float = 40.0) -> None:
    """Each body began and ended once, its success is on record, and nobody was declared lost."""
    wait_for("all ended", lambda: {line.task_id for line in fleet.ends()} >= set(sent), seconds)
    wait_for("no attempt left open", lambda: fleet.open_attempts() == 0, seconds)
    begun = Counter(line.task_id for line in fleet.starts())
    assert begun == Counter(sent)
    wait_for("all on record", lambda: len(_succeeded(fleet)) >= len(sent), seconds)
    assert _succeeded(fleet) == sorted(sent)
    assert fleet.rows("SELECT task_id, cause FROM crisper_recovery") == []
    assert losses(fleet) == 0
    nothing_left_in_the_broker(fleet)
    assert fleet.errors() == []


def _succeeded(fleet: Fleet) -> list[str]:
    rows = fleet.rows("SELECT task_id FROM crisper_attempt WHERE state = 'succeeded'")
    return sorted(str(row[0]) for row in rows)
