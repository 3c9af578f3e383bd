"""A killed worker's tasks come back: the whole way, on every broker, with real processes."""

from __future__ import annotations

import os
import signal

from tests.fleet import Fleet, wait_for


def all_after(fleet: Fleet, moment: float, sent: list[str]) -> list[float]:
    """Seconds after the moment at which each task started again; empty until all have."""
    after = {line.task_id: line.at - moment for line in fleet.starts() if line.at > moment}
    return list(after.values()) if set(after) == set(sent) else []


def test_running_and_prefetched_tasks_of_a_killed_parent_run_again_within_two_seconds(fleet: Fleet) -> None:
    first = fleet.worker("first")
    sent = [fleet.send("late", key, "open").id for key in range(4)]
    wait_for("two running", lambda: len(fleet.starts()) == 2)
    wait_for("all claimed", lambda: fleet.open_attempts() == 4)
    fleet.worker("second", "-c", "4")
    killed_at = first.kill()
    again = wait_for("every task started again", lambda: all_after(fleet, killed_at, sent))
    assert max(again) < 2.0
    (fleet.folder / "open").touch()
    wait_for("every task finished", lambda: {line.task_id for line in fleet.ends()} == set(sent))
    assert fleet.run_twice() == []
    wait_for("no attempt left open", lambda: fleet.open_attempts() == 0)
    assert {fleet.attempts(id)[-1] for id in sent} == {(2, "succeeded")}
    assert fleet.incarnations()["first"] == ["lost"]
    assert fleet.errors() == []


def test_parent_and_recorder_killed_together_are_found_by_a_neighbour_on_the_host(fleet: Fleet) -> None:
    first = fleet.worker("first")
    sent = fleet.send("late", 1, "open").id
    wait_for("running on record", lambda: fleet.attempts(sent) == [(1, "running")])
    fleet.worker("second")
    os.kill(first.recorder(), signal.SIGKILL)
    killed_at = first.kill()
    wait_for("started again", lambda: len(fleet.starts(sent)) == 2)
    assert fleet.starts(sent)[1].at - killed_at < 4.0
    (fleet.folder / "open").touch()
    wait_for("finished", lambda: fleet.attempts(sent) == [(1, "lost"), (2, "succeeded")])
    assert fleet.run_twice() == []
