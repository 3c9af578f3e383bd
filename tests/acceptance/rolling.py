"""Workers restarted one after another under load, as by a deployment that never ends."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.acceptance.harm import Harm, Steady, Waits, harm_to, waits
from tests.acceptance.site import Site
from tests.fleet import wait_for


@dataclass(frozen=True)
class Rolled:
    seconds: float
    restarts: int
    tasks: int
    wait: Waits
    most_connections: int
    harm: Harm

    def __str__(self) -> str:
        return (
            f"{self.restarts} warm restarts in {self.seconds:.0f} s: {self.tasks} tasks,"
            f" wait p50/p99 {self.wait}, at most {self.most_connections} connections; {self.harm}"
        )


def roll(
    place: Site, seconds: float, *, pool: tuple[str, ...], per_second: float = 40.0, every: float = 0.0
) -> Rolled:
    """Every worker of the fleet in turn, for so long: SIGTERM, and another of its name once it is gone.

    `every`: seconds from one restart to the next, at least.
    """
    fleet = place.fleet
    names = [worker.name for worker in fleet.workers]
    began, restarts, most = time.monotonic(), 0, 0
    with Steady(fleet, per_second, seconds=0.05) as steady:
        while time.monotonic() - began < seconds:
            since = time.monotonic()
            name = names[restarts % len(names)]
            old = next(worker for worker in fleet.workers if worker.name == name)
            assert old.stop() == 0
            fleet.workers.remove(old)
            fleet.worker(name, *pool, wait=False)
            wait_for("it is on record", lambda name=name: fleet.incarnations()[name][-1] == "alive", 30)
            most = max(most, place.postgres.connections())
            restarts += 1
            time.sleep(max(0.0, since + every - time.monotonic()))
    place.sent |= steady.sent
    harm = harm_to(fleet, place.sent)
    return Rolled(time.monotonic() - began, restarts, len(steady.sent), waits(fleet, steady.sent), most, harm)
