"""A container that is gone takes its recorder along: only its silence tells, and its tasks run again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.containers import destroy, entered
from tests.acceptance.watching import how_lost, is_running, nothing_left_in_the_broker
from tests.fleet import Fleet, wait_for

LEASE = 3.0
QUICK = {"lease": LEASE, "heartbeat_interval": 0.5, "sweep_interval": 0.2}


@pytest.fixture
def quick(broker_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, **broker_urls(broker_name, request), **QUICK)
    yield fleet
    fleet.close()


def test_every_task_of_a_lost_container_runs_again_within_the_lease_and_three_seconds(
    quick: Fleet, own_pids: list[str]
) -> None:
    lost = entered(quick.worker("lost", inside=own_pids, wait=False))
    sent = {quick.send("late", key, "open").id for key in range(4)}
    wait_for("two run, two are prefetched", lambda: len(quick.starts()) == 2)
    wait_for("all on record", lambda: quick.open_attempts() == 4)
    family = [lost.recorder(), *lost.pool()]
    quick.worker("other", "-c", "4")
    killed_at = destroy(lost)
    assert not any(is_running(pid) for pid in family)

    wait_for("all again", lambda: {x.task_id for x in quick.starts() if x.at > killed_at} == sent, LEASE + 10)
    took = max(line.at for line in quick.starts()) - killed_at
    print(f"all of a lost container run again after {took:.2f} s, with a lease of {LEASE:g} s")
    assert took < LEASE + 3
    assert how_lost(quick, "lost") == ["silence"]
    (quick.folder / "open").touch()
    wait_for("all finished", lambda: quick.open_attempts() == 0 and len(quick.ends()) == 4)
    assert all(quick.attempts(id) == [(1, "lost"), (2, "succeeded")] for id in sent)
    assert quick.run_twice() == []
    nothing_left_in_the_broker(quick)
    assert quick.errors() == []
