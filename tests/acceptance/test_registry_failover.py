"""The registry fails over to its standby under load: synchronous or not, every task is on record once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.harm import Steady, harm_to
from tests.acceptance.site import QUICK, Site, site
from tests.faults.postgres import FaultyPostgres, Standby
from tests.faults.proxy import FaultProxy
from tests.fleet import wait_for
from tests.left_out import needs
from tests.servers import HOST

pytestmark = pytest.mark.timeout(120)


@contextmanager
def replicated(folder: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Site, Standby, FaultProxy]]:
    """A site, the standby of its registry, and what the standby follows it through."""
    with (
        needs("postgres"),
        FaultyPostgres() as primary,
        FaultProxy((HOST, primary.port)) as between,
        Standby(primary, between.port) as standby,
        site(folder, primary, **broker_urls("redis", request), **QUICK) as made,
    ):
        made.workers()
        wait_for("it follows", standby.follows)
        yield made, standby, between


def fail_over(place: Site, standby: Standby) -> None:
    """The primary dies; whoever asks for the registry is led to the standby, once that is promoted."""
    place.postgres.crash()
    standby.promote()
    place.to_registry.upstream = (HOST, standby.port)
    place.to_registry.reset()
    place.fleet.registry_url = standby.owner_url


def test_a_failover_to_a_synchronous_standby_harms_nothing(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with replicated(tmp_path, request) as (place, standby, _):
        place.postgres.configure("synchronous_standby_names", "*")
        with Steady(place.fleet) as steady:
            wait_for("the stream runs", lambda: len(place.fleet.ends()) > 30)
            fail_over(place, standby)
            ended = len(place.fleet.ends())
            wait_for("the stream goes on", lambda: len(place.fleet.ends()) > ended + 30, 30)
        harm = harm_to(place.fleet, steady.sent)
        print(f"failover to a synchronous standby: {len(steady.sent)} tasks; {harm}")
        assert not harm


def test_what_an_asynchronous_standby_never_received_is_written_again_after_the_failover(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with replicated(tmp_path, request) as (place, standby, between):
        fleet = place.fleet
        with Steady(fleet) as steady:
            wait_for("the stream runs", lambda: len(fleet.ends()) > 30)
            between.hold()
            ended = len(fleet.ends())
            wait_for("acknowledged here alone", lambda: len(fleet.ends()) > ended + 30)
            missing = "SELECT count(*) FROM crisper_attempt"
            wait_for("on record", lambda: fleet.rows(missing)[0][0] > ended + 20)
            (before,) = fleet.rows(missing)[0]
            between.reset()
            fail_over(place, standby)
            (after,) = fleet.rows(missing)[0]
            ended = len(fleet.ends())
            wait_for("the stream goes on", lambda: len(fleet.ends()) > ended + 10)
        harm = harm_to(fleet, steady.sent)
        print(
            f"failover to a standby that lacks some: {before} attempts on record before, {after} right after;"
            f" {len(steady.sent)} tasks; {harm}"
        )
        assert after < before
        assert not harm
