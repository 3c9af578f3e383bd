"""What a recorder tells of the attempts that run."""

from __future__ import annotations

from crisper.core.model import Progress
from crisper.engine.running import (
    MOST_EARLY,
    TELL_AGAIN_MS,
    UNNOTICED_MS,
    Running,
    Seen,
    Unnoticed,
    last_known,
)


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


# -- looking at its processes ---------------------------------------------------


class Processes:
    """What a look at a process finds."""

    def __init__(self) -> None:
        self.seen: dict[int, Seen] = {42: Seen(False, 5_000_000), 43: Seen(False, 6_000_000)}

    def __call__(self, pid: int, start: int) -> Seen:
        assert start == 7
        return self.seen[pid]


def two_running() -> tuple[Running, Processes]:
    running = Running()
    running.began(1, "t", 42, 7)
    running.began(2, "other", 43, 7)
    running.began(3, "in a thread", 0, 0)
    return running, Processes()


def test_the_memory_of_each_process_is_told_and_kept_as_evidence() -> None:
    running, processes = two_running()
    assert running.look(1_000, processes, 1_000) == []
    assert running.told(1_000) == {"1": {"memory": 5_000_000}, "2": {"memory": 6_000_000}}
    processes.seen[42] = Seen(True)
    running.look(2_000, processes, 2_000)
    run = running.ended(1)
    assert run is not None
    assert last_known(run) == {"memory": "4.8 MiB"}


def test_a_process_that_is_gone_while_the_loop_went_round_is_told_of_and_again() -> None:
    running, processes = two_running()
    processes.seen[42] = Seen(True)
    for now in range(1_000, 1_000 + UNNOTICED_MS, 500):
        assert running.look(now, processes, now) == []
    now = 1_000 + UNNOTICED_MS
    assert running.look(now, processes, now) == [Unnoticed(1, 42, UNNOTICED_MS)]
    assert running.look(now + TELL_AGAIN_MS - 1, processes, now) == []
    assert running.look(now + TELL_AGAIN_MS, processes, now) == [
        Unnoticed(1, 42, now + TELL_AGAIN_MS - 1_000)
    ]


def test_while_the_loop_stands_still_nobody_is_told_what_it_has_not_read_yet() -> None:
    running, processes = two_running()
    processes.seen[42] = Seen(True)
    running.look(1_000, processes, 900)
    assert running.look(60_000, processes, 1_500) == []
    assert len(running.look(61_000, processes, 60_900)) == 1


def test_what_cannot_be_told_and_what_was_seen_again_is_not_gone() -> None:
    running, processes = two_running()
    processes.seen[42] = Seen(None)
    for now in (1_000, 9_000):
        assert running.look(now, processes, now) == []
    processes.seen[42] = Seen(True)
    running.look(10_000, processes, 10_000)
    processes.seen[42] = Seen(False, 1)
    running.look(11_000, processes, 11_000)
    processes.seen[42] = Seen(True)
    assert running.look(13_000, processes, 13_000) == []


def test_an_attempt_whose_outcome_came_is_not_looked_at_any_more() -> None:
    running, processes = two_running()
    processes.seen[42] = Seen(True)
    running.look(1_000, processes, 1_000)
    running.ended(1)
    assert running.look(9_000, processes, 9_000) == []


def test_how_long_an_attempt_has_been_quiet_counts_from_what_it_said_last() -> None:
    running = Running()
    running.heard(1, Progress(1), 100)
    assert running.quiet(1, 400) == 300  # before its start is known, too
    running.began(1, "t", 42, 7)
    running.began(2, "silent", 43, 7)
    running.heard(1, Progress(2), 600)
    assert running.quiet(1, 700) == 100
    assert running.quiet(2, 700) is None
