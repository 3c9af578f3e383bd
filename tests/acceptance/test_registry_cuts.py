"""The registry's connection is cut where a transaction ends, heard by the server or not: nothing is lost.

So the outcome of that transaction is unknown to who sent it; it is asked or sent again, never assumed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.harm import Steady, harm_to
from tests.acceptance.random_kills import Kill
from tests.acceptance.site import QUICK, Site, site
from tests.faults.cuts import at_commit, at_statement
from tests.faults.postgres import FaultyPostgres
from tests.fleet import wait_for
from tests.left_out import needs

pytestmark = pytest.mark.timeout(120)

#: What one statement writes, by a word of its parameters; what takes a transaction, by a statement in it.
RECORDING = {
    "claim": (at_statement, '"acks_late":'),
    "start": (at_statement, '"pid_start":'),
    "outcome": (at_statement, '"runtime_ms":'),
    "heartbeat": (at_statement, "SET counter = counter + 1, recorder_pid"),
}
RECOVERING = {
    "declared": "UPDATE crisper_incarnation SET state =",
    "closed": "SET state = 'lost'",
    "taken": "UPDATE crisper_recovery r SET courier =",
    "decided": "SET state = g.state",
    "completed": "SET state = 'done'",
}
WHEN = {"before": False, "after": True}


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two workers of two processes each."""
    with (
        needs("postgres"),
        FaultyPostgres() as postgres,
        site(tmp_path_factory.mktemp("cuts"), postgres, **broker_urls("redis", request), **QUICK) as made,
    ):
        made.workers()
        yield made


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("what", RECORDING)
def test_a_cut_at_what_is_recorded_costs_no_task_and_no_record(place: Site, what: str, when: str) -> None:
    place_of, words = RECORDING[what]
    cut = place.to_registry.cut(place_of(words, heard=WHEN[when], times=2))
    long = place.fleet.send("late", "long", 0.4).id  # whose start is written by itself
    with Steady(place.fleet, 30) as steady:
        wait_for("it was cut", lambda: cut.done == 2)
        more = place.fleet.send("late", "long", 0.4).id
        time.sleep(0.3)
    place.to_registry.heal()
    place.sent |= steady.sent | {long: 0.0, more: 0.0}
    harm = harm_to(place.fleet, place.sent)
    print(f"cut {when} the end of a {what}: {len(steady.sent)} tasks; {harm}")
    assert not harm


@pytest.mark.parametrize("when", WHEN)
def test_cuts_at_every_step_of_a_recovery_bring_each_task_back_once(place: Site, when: str) -> None:
    fleet = place.fleet
    doomed, mark = f"doomed-{when}", f"open-{when}"
    victim = fleet.worker(f"victim-{when}", "-Q", doomed)
    late = [fleet.send("late", mark, mark, queue=doomed).id for _ in range(2)]
    wait_for("running on record", lambda: all(fleet.attempts(id) == [(1, "running")] for id in late))
    cuts = {step: place.to_registry.cut(at_commit(sql, heard=WHEN[when])) for step, sql in RECOVERING.items()}
    dead = frozenset([victim.pid, *victim.pool()])
    kill = Kill(time.time(), "both", dead)
    os.kill(victim.recorder(), signal.SIGKILL)
    victim.kill()
    (fleet.folder / mark).touch()
    wait_for("all is cut", lambda: all(cut.done for cut in cuts.values()), 30)
    fleet.app.control.add_consumer(doomed, reply=True, destination=["w0@test"])
    harm = harm_to(fleet, late, [kill])
    place.to_registry.heal()
    print(f"cut {when} every COMMIT of a recovery: {harm}")
    assert not harm
    for id in late:
        assert fleet.attempts(id) == [(1, "lost"), (2, "succeeded")]
        assert len(fleet.recoveries(id)) == 1
