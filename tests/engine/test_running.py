"""What a recorder tells of the attempts that run."""

from __future__ import annotations

from crisper.core.model import Progress
from crisper.engine.running import MOST_EARLY, Running, last_known


def test_the_heartbeat_tells_how_far_an_attempt_is_and_how_long_ago_it_said_so() -> None:
    running = Running()
    running.began(1, "t", 42, 7)
    running.began(2, "silent", 43, 7)
    running.heard(1, Progress(1, 9), 100)
    running.heard(1, Progress(2, 9, "reads"), 1_000)
    said = {"done": 2, "total": 9, "note": "reads", "age_ms": 500}
    assert running.told(1_500) == {"1": {"progress": said}}


def test_an_attempt_that_ended_is_not_told_of_whatever_comes_late() -> None:
    running = Running()
    running.began(1, "t", 42, 7)
    running.heard(1, Progress(1, 9), 100)
    run = running.ended(1)
    assert run is not None
    assert last_known(run) == {"progress": "1 of 9"}
    running.heard(1, Progress(2, 9), 200)
    assert running.told(300) == {}
    assert running.ended(1) is None


def test_what_an_attempt_says_before_its_start_is_known_is_not_lost() -> None:
    running = Running()
    running.heard(1, Progress(1, 9), 100)
    assert running.told(100) == {}
    running.began(1, "t", 42, 7)
    assert running.told(100)["1"]["progress"]["done"] == 1
    running.began(1, "t", 42, 7)  # told again, to another recorder
    assert running.told(100)["1"]["progress"]["done"] == 1


def test_what_fenced_attempts_go_on_saying_takes_no_more_than_its_room() -> None:
    running = Running()
    running.began(1, "t", 42, 7)
    running.clear()
    for seq in range(1, 3 * MOST_EARLY):
        running.heard(seq, Progress(seq), 0)
    assert running.told(0) == {}
    assert len(running._early) == MOST_EARLY
