"""Workers whose wall clocks are hours apart judge nobody by them, and run nothing twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.harm import Steady, harm_to
from tests.acceptance.site import QUICK, Site, site
from tests.faults.postgres import FaultyPostgres
from tests.faults.preloaded import Preloaded
from tests.fleet import Worker, wait_for
from tests.left_out import needs

pytestmark = pytest.mark.timeout(120)

#: More than Redis' visibility timeout, by which kombu gives messages to others.
HOURS = 2 * 3600


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with (
        needs("postgres"),
        FaultyPostgres() as postgres,
        site(tmp_path, postgres, **broker_urls("redis", request), **QUICK) as made,
    ):
        yield made


def wrong_by(place: Site, name: str, seconds: int) -> Worker:
    with needs("a C compiler"):
        clock = Preloaded("clockskew", place.fleet.folder / name)
    clock.set(seconds)
    return place.fleet.worker(name, "-Q", f"celery,{name}", wait=False, **clock.environment)


def test_workers_whose_clocks_are_four_hours_apart_harm_nothing_and_bring_the_lost_back(place: Site) -> None:
    fleet = place.fleet
    behind, ahead = wrong_by(place, "behind", -HOURS), wrong_by(place, "ahead", HOURS)
    for worker in (behind, ahead):
        worker.ready()
    fleet.worker("right", "-Q", "celery,right")
    with Steady(fleet, 20) as steady:
        wait_for("the stream runs", lambda: len(fleet.ends()) > 60)
    harm = harm_to(fleet, steady.sent)
    print(f"clocks four hours apart: {len(steady.sent)} tasks; {harm}")
    assert not harm
    assert {tuple(states) for states in fleet.incarnations().values()} == {("alive",)}
    stamps = [line.at for line in fleet.ledger()]
    assert max(stamps) - min(stamps) > 1.9 * HOURS  # their clocks are really wrong
    late = [fleet.send("late", name, "open", queue=name).id for name in ("behind", "right", "ahead") * 2]
    wait_for("two on each", lambda: all(fleet.attempts(id) == [(1, "running")] for id in late))
    os.kill(ahead.recorder(), signal.SIGKILL)
    ahead.kill()
    wait_for("found lost", lambda: fleet.incarnations()["ahead"] == ["lost"])
    fleet.app.control.add_consumer("ahead", reply=True, destination=["right@test"])
    (fleet.folder / "open").touch()
    wait_for("all ended", lambda: {x.task_id for x in fleet.ends()} >= set(late))
    wait_for("no attempt left open", lambda: fleet.open_attempts() == 0)
    assert sorted(len(fleet.attempts(id)) for id in late) == [1, 1, 1, 1, 2, 2]
    assert fleet.run_twice() == []
    assert fleet.errors() == []
