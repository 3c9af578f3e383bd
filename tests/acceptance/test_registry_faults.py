"""The registry's server is restarted, frozen, read-only, full, slow or failed over under load: no harm.

One fleet for all of it: whatever a fault leaves behind, the next one finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.site import LEASE, QUICK, Site, site, under
from tests.faults.postgres import FaultyPostgres
from tests.left_out import needs

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two workers of two processes each."""
    with (
        needs("a postgres with faults"),
        FaultyPostgres("slowfsync", "clockskew", small=True) as postgres,
        site(tmp_path_factory.mktemp("faults"), postgres, **broker_urls("redis", request), **QUICK) as made,
    ):
        made.workers()
        yield made


@contextmanager
def restarted(postgres: FaultyPostgres) -> Iterator[None]:
    postgres.stop()
    postgres.start()
    yield


@contextmanager
def crashed(postgres: FaultyPostgres) -> Iterator[None]:
    postgres.crash()
    yield
    postgres.start()


@contextmanager
def frozen(postgres: FaultyPostgres) -> Iterator[None]:
    postgres.pause()
    yield
    postgres.resume()


def slow_20(postgres: FaultyPostgres) -> AbstractContextManager[None]:
    return postgres.slow(20)


def slow_1000(postgres: FaultyPostgres) -> AbstractContextManager[None]:
    return postgres.slow(1000)


Fault = Callable[[FaultyPostgres], AbstractContextManager[None]]
FAULTS: list[tuple[Fault, float]] = [
    (restarted, 1),
    (crashed, LEASE + 1),
    (frozen, LEASE + 1),
    (FaultyPostgres.read_only, LEASE + 1),
    (FaultyPostgres.full, LEASE + 1),
    (slow_20, 2),
    (slow_1000, LEASE + 1),
]


@pytest.mark.parametrize(("fault", "seconds"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_registry_that_is_harmed_under_load_costs_no_task_and_no_record(
    place: Site, fault: Fault, seconds: float
) -> None:
    passed = under(place, fault.__name__, fault(place.postgres), seconds)
    assert not passed.harm
