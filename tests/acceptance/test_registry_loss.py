"""A third of the segments on the way to the registry is lost under load, for less than a lease: no harm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.site import LEASE, Site, under
from tests.acceptance.test_registry_way import faulty, two_workers
from tests.faults.connection import LATE_MOST

pytestmark = pytest.mark.timeout(240)

SECONDS = LEASE + 1


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """What was lost last arrives after the fault; the lease outlasts that."""
    with two_workers(request, tmp_path_factory, SECONDS + LATE_MOST + LEASE) as made:
        yield made


def test_a_lossy_way_to_the_registry_costs_no_task_and_no_record(place: Site) -> None:
    fault = faulty(place.to_registry, up_loss=0.3, down_loss=0.3)
    assert not under(place, "30 % loss", fault, SECONDS).harm
