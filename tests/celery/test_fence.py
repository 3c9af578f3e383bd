"""A fence mutes what an incarnation held, and never silences its worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import BROKERS, broker_urls
from tests.acceptance.watching import is_running, nothing_left_in_the_broker
from tests.fleet import Fleet, wait_for

#: Four run, and four times as many as that wait twenty-four deep: a hundred deliveries in one worker's hands.
HELD = {"FLEET_PREFETCH": "25"}


#: On the embedded broker an attempt stayed open in two of some twenty runs beside much other work, and why is
#: not known yet: it runs with `make slow`, and tells its story when it fails.
UNSURE = [pytest.param(one, marks=pytest.mark.slow) if one == "filesystem" else one for one in BROKERS]


@pytest.fixture(params=UNSURE)
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path, **broker_urls(request.param, request), heartbeat_interval=0.5, redelivery_grace=2)
    failed = request.session.testsfailed
    yield made
    if request.session.testsfailed > failed:
        print(made.story())
    made.close()


@pytest.mark.timeout(120)
def test_after_a_hundred_fenced_deliveries_a_worker_consumes_at_its_full_prefetch(fleet: Fleet) -> None:
    worker = fleet.worker("fenced", "-c", "4", **HELD)
    sent = [fleet.send("late", key, "first").id for key in range(100)]
    wait_for("a hundred held", lambda: fleet.open_attempts() == 100)
    running = wait_for("four running", lambda: x if len(x := fleet.starts()) == 4 else [])
    declare(fleet)
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


def declare(fleet: Fleet) -> None:
    """As a sweeper would that had seen it silent: by compare-and-set on its counter."""

    def won() -> bool:
        with fleet.store() as store:
            [one] = store.alive()
            return store.declare_lost(one.id, one.counter, by="test", evidence={"how": "silence"})

    wait_for("declared", won)
