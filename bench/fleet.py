"""What a fleet costs one PostgreSQL: incarnations that speak the registry's protocol, and run nothing.

    python bench/fleet.py [--workers 1000] [--attempts 100000] [--seconds 30] [--lease 20] [--connections 8]
                          [--told 0]

They are enrolled, claim and start their attempts, and renew their leases every fifth of a lease, by the
recorder's own store; one of them sweeps once a second. Several share a connection: a real worker has two of
its own, which cost the server memory, and no CPU while they are idle. With `--told` each heartbeat tells the
memory of so many running attempts, as a prefork worker's does. CPU is of the server's processes, as a
share of one core, once it has tidied up after the claims. On a PostgreSQL of its own with its defaults.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crisper.core.model import Pulse
from crisper.engine.sweeper import Sweeper
from crisper.store.migrate import upgrade
from crisper.store.open import open_store
from tests.servers import PrivatePostgres
from tests.store.acting import Actor, start

BATCH = 500


class Hearts:
    """Some of the incarnations, over one connection, in a thread of their own."""

    def __init__(self, url: str, options: argparse.Namespace, share: int) -> None:
        self._url, self._options, self._share = url, options, share
        self._workers: list[Actor] = []
        self._store = open_store(url)
        self.took: list[float] = []
        self.late = 0.0
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def enroll(self) -> None:
        """Each with its attempts."""
        options = self._options
        for number in range(self._share, options.workers, options.connections):
            worker = Actor(self._store, hostname=f"w{number}@fleet", lease_ms=int(options.lease * 1000))
            self._workers.append(worker)
            mine = range(number, options.attempts, options.workers)
            for first in range(0, len(mine), BATCH):
                claims = [worker.wants(f"task-{n}", f"m-{n}") for n in mine[first : first + BATCH]]
                worker.record(*claims, *[start(claim, 0) for claim in claims])

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _beat(self) -> None:
        every, count = self._options.lease / 5, len(self._workers)
        began = time.monotonic()
        beats = int(self._options.seconds / every * count)
        told = {str(n): {"rss": 123_456_789, "unnoticed_ms": 0} for n in range(self._options.told)}
        pulse = Pulse(1, 1, 0, {}, told or None)
        for beat in range(beats):
            due = began + beat * every / count
            self.late = max(self.late, time.monotonic() - due)
            time.sleep(max(0.0, due - time.monotonic()))
            at = time.perf_counter()
            assert self._store.renew(self._workers[beat % count].fence, pulse)
            self.took.append(time.perf_counter() - at)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--attempts", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--lease", type=float, default=20.0)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--told", type=int, default=0)
    options = parser.parse_args()
    with PrivatePostgres() as server:
        upgrade(server.url)
        run(server, options)
    return 0


def run(server: PrivatePostgres, options: argparse.Namespace) -> None:
    fleet = [Hearts(server.url, options, share) for share in range(options.connections)]
    began = time.monotonic()
    threads = [threading.Thread(target=one.enroll) for one in fleet]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"workers, attempts open on them       {options.workers}, {options.attempts}")
    print(f"enrolled, claimed and started within {time.monotonic() - began:.1f} s")

    tidy_up(server)
    alone = cpu_seconds(server)
    for one in fleet:
        one.start()
    time.sleep(options.seconds / 2)
    hearts = (cpu_seconds(server) - alone) / (options.seconds / 2)
    store = open_store(server.url)
    sweeper, took, before = Sweeper(store, "bench", lease=options.lease), [], cpu_seconds(server)
    until, swept = time.monotonic() + options.seconds / 2 - 1, None
    while time.monotonic() < until:
        at = time.perf_counter()
        swept = sweeper.tick(time.monotonic())
        took.append(time.perf_counter() - at)
        time.sleep(1)
    both = (cpu_seconds(server) - before) / (options.seconds / 2 - 1)
    for one in fleet:
        one.join()
    renewals = sorted(second for one in fleet for second in one.took)
    per_second = len(renewals) / options.seconds
    print(f"renewals per second, the latest by   {per_second:.0f}, {max(one.late for one in fleet):.2f} s")
    print(f"a renewal p50, p99                   {at_share(renewals, 0.5)}, {at_share(renewals, 0.99)}")
    print(f"the server's CPU for renewals        {hearts:.1%} of a core")
    print(f"the same with one sweep a second     {both:.1%}")
    assert swept is not None
    assert (swept.alive, swept.declared) == (options.workers, ())
    print(f"a sweep, median and longest          {statistics.median(took) * 1000:.1f},"
          f" {max(took) * 1000:.1f} ms")  # fmt: skip
    store.close()


def tidy_up(server: PrivatePostgres) -> None:
    """What the claims have left to do is not the heartbeats'."""
    with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def at_share(ordered: list[float], share: float) -> str:
    return f"{ordered[int(share * (len(ordered) - 1))] * 1000:.1f} ms"


def cpu_seconds(server: PrivatePostgres) -> float:
    """Of all its processes since they began."""
    own, ticks = server.process.pid, 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(process.name) == own or int(fields[1]) == own:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
