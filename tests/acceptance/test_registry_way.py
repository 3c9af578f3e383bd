"""The way to the registry is slow, one-way, lossy or cut off under load: no harm, and nobody declared."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.site import LEASE, QUICK, Site, site, under
from tests.faults.postgres import FaultyPostgres
from tests.faults.proxy import FaultProxy
from tests.left_out import needs

pytestmark = pytest.mark.timeout(120)


@contextmanager
def two_workers(
    request: pytest.FixtureRequest, factory: pytest.TempPathFactory, lease: float
) -> Iterator[Site]:
    """Of two processes each."""
    settings = {**broker_urls("redis", request), **QUICK, "lease": lease}
    with (
        needs("postgres"),
        FaultyPostgres() as postgres,
        site(factory.mktemp("way"), postgres, **settings) as made,
    ):
        made.workers()
        yield made


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with two_workers(request, tmp_path_factory, LEASE) as made:
        yield made


@contextmanager
def faulty(proxy: FaultProxy, **faults: float) -> Iterator[None]:
    """`up_delay=0.1` and the like."""
    for name, value in faults.items():
        side, _, which = name.partition("_")
        setattr(getattr(proxy, side), which, value)
    yield
    proxy.heal()


@contextmanager
def refused(proxy: FaultProxy) -> Iterator[None]:
    """Nobody is there: what was open is reset, and what is new is refused."""
    proxy.refuse = True
    proxy.reset()
    yield
    proxy.heal()


@contextmanager
def reset_often(proxy: FaultProxy, every: float = 0.3) -> Iterator[None]:
    over = threading.Event()

    def storm() -> None:
        while not over.wait(every):
            proxy.reset()

    thread = threading.Thread(target=storm, daemon=True)
    thread.start()
    yield
    over.set()
    thread.join(10)


def latency(seconds: float) -> Callable[[FaultProxy], AbstractContextManager[None]]:
    """There and back together."""
    half = seconds / 2
    return partial(faulty, up_delay=half, up_jitter=half / 4, down_delay=half, down_jitter=half / 4)


Fault = Callable[[FaultProxy], AbstractContextManager[None]]
FAULTS: dict[str, tuple[Fault, float]] = {
    "latency of 1 s": (latency(1.0), LEASE + 2),
    "a black hole to the registry": (partial(faulty, up_hold=True), LEASE + 1),
    "a black hole from the registry": (partial(faulty, down_hold=True), LEASE + 1),
    "refused": (refused, LEASE + 1),
}
#: For `make slow`.
FURTHER: dict[str, tuple[Fault, float]] = {
    "latency of 100 ms": (latency(0.1), 3),
    "latency of 100 ms for 20 s": (latency(0.1), 20),
    "latency of 1 s for 30 s": (latency(1.0), 30),
    "resets": (reset_often, LEASE + 1),
    "20 kB a second": (partial(faulty, up_rate=20_000.0, down_rate=20_000.0), LEASE + 1),
    "a black hole to the registry for a minute": (partial(faulty, up_hold=True), 60),
    "a black hole from the registry for a minute": (partial(faulty, down_hold=True), 60),
    "resets for a minute": (reset_often, 60),
}
#: Those by which no call hangs: tasks begin and end all along, by the journal's rules.
TOLD_AT_ONCE = ("refused", "resets", "resets for a minute")
CASES = [*FAULTS, *(pytest.param(name, marks=pytest.mark.slow) for name in FURTHER)]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", CASES)
def test_a_bad_way_to_the_registry_costs_no_task_and_no_record(place: Site, fault: str) -> None:
    how, seconds = (FAULTS | FURTHER)[fault]
    passed = under(place, fault, how(place.to_registry), seconds)
    assert not passed.harm
    if fault in TOLD_AT_ONCE:
        assert passed.ended_meanwhile > passed.meanwhile.tasks / 2
