"""The registry's server is restarted, frozen, read-only, full, slow or failed over under load: no harm.

One fleet for all of it: whatever a fault leaves behind, the next one finds.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import psycopg
import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.outages import crashed
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


Fault = Callable[[FaultyPostgres], AbstractContextManager[None]]


@contextmanager
def restarted(postgres: FaultyPostgres) -> Iterator[None]:
    postgres.stop()
    postgres.start()
    yield


@contextmanager
def frozen(postgres: FaultyPostgres) -> Iterator[None]:
    postgres.pause()
    yield
    postgres.resume()


@contextmanager
def sent_off(postgres: FaultyPostgres) -> Iterator[None]:
    """As by an administrator, or a server that is short of memory: every connection, and again."""
    for _ in range(4):
        postgres.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'crisper%'"
        )
        time.sleep(0.3)
    yield


@contextmanager
def backend_killed(postgres: FaultyPostgres) -> Iterator[None]:
    """PostgreSQL then ends all others and recovers, as it does when a backend runs out of memory."""
    [(pid,), *_] = postgres.sql("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'crisper%'")
    os.kill(pid, signal.SIGKILL)
    yield


@contextmanager
def locked(postgres: FaultyPostgres) -> Iterator[None]:
    """Somebody else has the table for themselves, and does not come back."""
    conninfo = postgres.owner_url.replace("+psycopg", "")
    with psycopg.connect(conninfo) as other:
        other.execute("LOCK TABLE crisper_attempt IN EXCLUSIVE MODE")
        yield


def slow(ms: int) -> Fault:
    return lambda postgres: postgres.slow(ms)


def clock(seconds: int) -> Fault:
    return lambda postgres: postgres.clock_wrong_by(seconds)


LONG = LEASE + 1
#: Those that another test causes as well, or that are milder than their neighbour, are for `make slow`.
FAULTS: dict[str, tuple[Fault, float]] = {
    "crashed": (crashed, LONG),
    "read-only": (FaultyPostgres.read_only, LONG),
    "full": (FaultyPostgres.full, LONG),
    "a second slower for each commit": (slow(1000), LONG),
    "its connections ended": (sent_off, 0.2),
    "clock an hour ahead": (clock(3600), 1),
    "clock an hour behind": (clock(-3600), 1),
}
FURTHER: dict[str, tuple[Fault, float]] = {
    "restarted": (restarted, 1),
    "a backend killed": (backend_killed, 1),
    "locked by others": (locked, 2 * LEASE),
    "frozen": (frozen, LONG),
    "20 ms slower for each commit": (slow(20), 2),
    "100 ms slower for each commit": (slow(100), 2),
    "frozen for 20 s": (frozen, 20),
    "full for 20 s": (FaultyPostgres.full, 20),
    "a second slower for 20 s": (slow(1000), 20),
}
#: Those by which no call hangs: tasks begin and end all along, by the journal's rules.
TOLD_AT_ONCE = ("crashed", "read-only", "full", "its connections ended", "restarted", "full for 20 s")
CASES = [*FAULTS, *(pytest.param(name, marks=pytest.mark.slow) for name in FURTHER)]


@pytest.mark.parametrize("fault", CASES)
def test_a_registry_that_is_harmed_under_load_costs_no_task_and_no_record(place: Site, fault: str) -> None:
    how, seconds = (FAULTS | FURTHER)[fault]
    passed = under(place, fault, how(place.postgres), seconds)
    assert not passed.harm
    if fault in TOLD_AT_ONCE:
        assert passed.ended_meanwhile > passed.meanwhile.tasks / 2
