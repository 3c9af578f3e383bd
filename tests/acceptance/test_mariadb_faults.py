"""MariaDB as the registry is restarted, frozen, crowded or cut off under load: no task and no record is lost.

One fleet for all of it: whatever a fault leaves behind, the next one finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.harm import Steady, harm_to
from tests.acceptance.site import LEASE, QUICK, Site, site, under
from tests.acceptance.test_registry_way import faulty, reset_often
from tests.faults.mariadb import FaultyMariaDB
from tests.fleet import wait_for
from tests.left_out import needs

pytestmark = pytest.mark.timeout(120)

CONNECTIONS = 30


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two workers of two processes each."""
    with (
        needs("mariadb"),
        FaultyMariaDB(**{"max-connections": str(CONNECTIONS)}) as mariadb,
        site(tmp_path_factory.mktemp("mariadb"), mariadb, **broker_urls("redis", request), **QUICK) as made,
    ):
        made.workers()
        yield made


@contextmanager
def restarted(place: Site) -> Iterator[None]:
    """Away for as long as it lasts."""
    place.server.stop()
    yield
    place.server.start()


@contextmanager
def crashed(place: Site) -> Iterator[None]:
    place.server.crash()
    yield
    place.server.start()


@contextmanager
def frozen(place: Site) -> Iterator[None]:
    place.server.pause()
    yield
    place.server.resume()


@contextmanager
def crowded_out(place: Site) -> Iterator[None]:
    """Their connections end, and others are there first."""
    place.to_registry.refuse = True
    place.server.send_off()
    with place.server.crowded() as taken:
        assert taken > CONNECTIONS / 2
        place.to_registry.refuse = False
        yield


Fault = Callable[[Site], AbstractContextManager[None]]
LONG = LEASE + 1
FAULTS: dict[str, tuple[Fault, float]] = {
    "stopped and started": (restarted, LONG),
    "frozen": (frozen, LONG),
    "crowded out": (crowded_out, LONG),
    "resets": (lambda place: reset_often(place.to_registry), LONG),
    "a black hole to it": (lambda place: faulty(place.to_registry, up_hold=True), LONG),
}
#: For `make slow`.
FURTHER: dict[str, tuple[Fault, float]] = {
    "crashed": (crashed, LONG),
    "a black hole from it": (lambda place: faulty(place.to_registry, down_hold=True), LONG),
    "30 % loss": (lambda place: faulty(place.to_registry, up_loss=0.3, down_loss=0.3), LONG),
    "frozen for 20 s": (frozen, 20),
}
#: Those by which no call hangs: tasks begin and end all along, by the journal's rules.
TOLD_AT_ONCE = ("stopped and started", "crashed", "crowded out", "resets")
CASES = [*FAULTS, *(pytest.param(name, marks=pytest.mark.slow) for name in FURTHER)]


@pytest.mark.parametrize("fault", CASES)
def test_a_mariadb_that_is_harmed_under_load_costs_no_task_and_no_record(place: Site, fault: str) -> None:
    how, seconds = (FAULTS | FURTHER)[fault]
    passed = under(place, fault, how(place), seconds)
    assert not passed.harm
    if fault in TOLD_AT_ONCE:
        assert passed.ended_meanwhile > passed.meanwhile.tasks / 2


def test_a_worker_that_is_deployed_into_a_crowd_works_by_its_journal_and_enrolls_when_there_is_room(
    place: Site,
) -> None:
    fleet = place.fleet
    with place.server.crowded(), Steady(fleet, 20, queue="newcomer") as steady:
        fleet.worker("newcomer", "-Q", "newcomer")
        wait_for("its tasks run", lambda: {x.task_id for x in fleet.ends()} & set(steady.sent))
        assert "newcomer" not in fleet.incarnations()
    wait_for("it is on record", lambda: fleet.incarnations().get("newcomer") == ["alive"])
    place.sent |= steady.sent
    harm = harm_to(fleet, place.sent)
    print(f"deployed into a crowd: {len(steady.sent)} tasks; {harm}")
    assert not harm
    wait_for("two connections each", lambda: place.server.connections() == 2 * 3)
