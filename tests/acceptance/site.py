"""A fleet whose ways to its registry and its broker lead through proxies, and what a fault does to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from crisper.store.migrate import upgrade
from tests.acceptance.harm import Harm, Steady, Waits, harm_to, waits
from tests.faults.cuts import Raw, Sql
from tests.faults.mariadb import FaultyMariaDB
from tests.faults.postgres import FaultyPostgres
from tests.faults.proxy import FaultProxy
from tests.fleet import Fleet, Worker, wait_for

LEASE = 3.0
QUICK = {"lease": LEASE, "heartbeat_interval": 0.5, "sweep_interval": 0.2}


@dataclass
class Site:
    """`to_registry` and `to_broker` are what the workers go through; the test itself goes straight."""

    fleet: Fleet
    server: FaultyPostgres | FaultyMariaDB
    to_registry: FaultProxy
    to_broker: FaultProxy
    sent: dict[str, float] = field(default_factory=dict)

    @property
    def postgres(self) -> FaultyPostgres:
        assert isinstance(self.server, FaultyPostgres)
        return self.server

    def workers(self, count: int = 2, *arguments: str) -> list[Worker]:
        """So many, ready and on record."""
        made = [self.fleet.worker(f"w{n}", *arguments, wait=False) for n in range(count)]
        for worker in made:
            worker.ready(60)
        wait_for("all on record", lambda: len(self.fleet.incarnations()) == count, 60)
        return made


@contextmanager
def site(
    folder: Path, server: FaultyPostgres | FaultyMariaDB, *, broker: str, backend: str, **settings: Any
) -> Iterator[Site]:
    upgrade(server.url)
    urls = {"broker": broker, "backend": backend, "registry": server.owner_url}
    fleet = Fleet(folder, **urls, journal_dir=folder / "journal", **settings)
    parts = urlsplit(broker)
    speech = Sql if isinstance(server, FaultyPostgres) else Raw
    with (
        FaultProxy(("127.0.0.1", server.port), speech) as to_registry,
        FaultProxy((str(parts.hostname), int(parts.port or 0)), Raw) as to_broker,
    ):
        fleet.environment["CRISPER_REGISTRY_URL"] = to_registry.address_in(server.url)
        fleet.environment["FLEET_BROKER"] = to_broker.address_in(broker)
        made = Site(fleet, server, to_registry, to_broker)
        try:
            yield made
        except BaseException:
            print(fleet.story()[-20_000:])
            raise
        finally:
            fleet.close()


@dataclass(frozen=True)
class Passed:
    """What a fault under load came to."""

    fault: str
    seconds: float
    tasks: int
    before: Waits
    meanwhile: Waits
    ended_meanwhile: int
    drained_in: float  # seconds from the end of the fault until every task was over
    harm: Harm

    def __str__(self) -> str:
        return (
            f"{self.fault}: {self.seconds:.1f} s, {self.tasks} tasks; wait p50/p99 {self.before} before,"
            f" {self.meanwhile} meanwhile; {self.ended_meanwhile} ended in it; all over"
            f" {self.drained_in:.1f} s after it; {self.harm}"
        )


def under(
    site: Site, name: str, fault: AbstractContextManager[Any], seconds: float, *, per_second: float = 30.0
) -> Passed:
    """A steady load before, during and after the fault; two tasks that began before it end in it."""
    fleet = site.fleet
    mark = f"open-{len(site.sent)}"
    across = {fleet.send(kind, mark, mark).id: time.time() for kind in ("late", "early")}
    wait_for("running on record", lambda: all(fleet.attempts(id) == [(1, "running")] for id in across), 30)
    with Steady(fleet, per_second) as steady:
        mine = steady.sent
        ended = _ended(fleet)
        wait_for("the stream runs", lambda: _ended(fleet) > ended + per_second, 30)
        ended, began = _ended(fleet), time.time()
        with fault:
            (fleet.folder / mark).touch()
            time.sleep(seconds)
            ended_meanwhile = _ended(fleet) - ended
        over = time.time()
        ended = _ended(fleet)
        wait_for("the stream goes on", lambda: _ended(fleet) > ended + per_second / 3, 60)
    site.sent |= mine | across
    harm = harm_to(fleet, site.sent)
    passed = Passed(
        name, over - began, len(mine), waits(fleet, mine, 0, began), waits(fleet, mine, began, over),
        ended_meanwhile, time.time() - over, harm,
    )  # fmt: skip
    print(passed)
    return passed


def _ended(fleet: Fleet) -> int:
    return len(fleet.ends())
