"""A fence mutes what an incarnation held, and never silences its worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import BROKERS, broker_urls
from tests.acceptance.watching import declare_lost, is_running, nothing_left_in_the_broker
from tests.fleet import Fleet, wait_for

#: Four run, and four times as many as that wait twenty-four deep: a hundred deliveries in one worker's hands.
HELD = {"FLEET_PREFETCH": "25", "FLEET_SWITCH_SECONDS": "0.00002"}


@pytest.fixture(params=BROKERS)
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path, **broker_urls(request.param, request), heartbeat_interval=0.5, redelivery_grace=2)
    yield made
    made.close()


@pytest.mark.timeout(120)
def test_after_a_hundred_fenced_deliveries_a_worker_consumes_at_its_full_prefetch(fleet: Fleet) -> None:
    worker = fleet.worker("fenced", "-c", "4", **HELD)
    sent = [fleet.send("late", key, "first").id for key in range(100)]
    wait_for("a hundred held", lambda: fleet.open_attempts() == 100)
    running = wait_for("four running", lambda: x if len(x := fleet.starts()) == 4 else [])
    declare_lost(fleet)
    wait_for("a new incarnation", lambda: fleet.incarnations() == {"fenced": ["lost", "alive"]})
    wait_for("what it ran is stopped", lambda: not any(is_running(line.pid) for line in running))
    (fleet.folder / "first").touch()
    wait_for("all came back and finished", lambda: {x.task_id for x in fleet.ends()} == set(sent), 60)
    wait_for("nothing open", lambda: fleet.open_attempts() == 0)
    nothing_left_in_the_broker(fleet)
    assert fleet.run_twice() == []
    assert {state for id in sent for _, state in fleet.attempts(id)} == {"lost", "succeeded"}

    more = [fleet.send("late", key, "second").id for key in range(100)]
    wait_for("a hundred held again", lambda: fleet.open_attempts() == 100)
    (fleet.folder / "second").touch()
    wait_for("all finish", lambda: all(fleet.attempts(id) == [(1, "succeeded")] for id in more), 60)
    assert worker.stop() == 0
    assert fleet.errors() == []
