"""Workers that are well, under all that looks like trouble: how often one is called wedged, silent, stalled.

    python bench/healthy_hour.py [--seconds 3600]

A prefork worker, one of threads and one of gevent, with the default times and `crisper_stall_after = 120`,
on a Redis of their own. Each has, all the time: bodies that compute, that keep the interpreter lock (now and
then for longer than a loop may stand), that sleep, and that run for a minute and say how far they are; more
ETA tasks than its prefetch; a queue with messages whose consumer is cancelled; times without anything to do;
and a broker that goes away for some seconds every two minutes. Results are in files: with a result backend
that is away Celery forgets outcomes. Ends with 1 if anything was named.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from kombu.exceptions import OperationalError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.fleet import Fleet, Worker
from tests.servers import PrivateRedis

POOLS = {"prefork": "2", "threads": "4", "gevent": "10"}
AWAY_EVERY, AWAY_SECONDS = 120.0, 8.0
#: For longer than a loop may stand, now and then: one at a time, because others in its process wait for it.
LOCKED_EVERY, LOCKED_SECONDS = 90.0, 13.0
#: What is sent at a time: a task of the fleet, and how long its body takes, at most.
BODIES = (("spins", 3.0), ("lock", 2.0), ("late", 15.0), ("advances", 60.0), ("noop", 0.0))
NAMED = ("wedged", "silent", "stalled")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3600)
    options = parser.parse_args()
    with PrivateRedis() as server, tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder), broker=server.url, stall_after=120)
        try:
            named = live(fleet, server, options.seconds)
            ended = Counter(line.name for line in fleet.ends())
        finally:
            fleet.close()
    print(f"bodies that ended in {options.seconds:.0f} s: {sum(ended.values())}, {dict(ended)}")
    for kind in NAMED:
        told = [json.loads(data)["sentence"] for found, data in named if found == kind]
        print("\n    ".join([f"called {kind:<10} {len(told):>4}", *told]))
    return 1 if named else 0


def live(fleet: Fleet, server: PrivateRedis, seconds: float) -> list[tuple[str, str]]:
    """Their life; kind and evidence of all that was named."""
    workers = {pool: _start(fleet, pool) for pool in POOLS}
    _wait_for_all(fleet)
    for pool in POOLS:
        fleet.app.control.cancel_consumer(f"paused-{pool}", destination=[f"{pool}@test"], reply=True)
        for number in range(60):
            fleet.send("late", number, 0, queue=pool, countdown=7200)
        fleet.send("noop", queue=f"paused-{pool}")
    began = time.monotonic()
    until, away_at, lock_at = began + seconds, began + AWAY_EVERY / 2, began + LOCKED_EVERY / 4
    while (now := time.monotonic()) < until:
        if now >= away_at:
            away_at = now + AWAY_EVERY
            server.stop()
            time.sleep(AWAY_SECONDS)
            server.start()
        for pool, worker in workers.items():  # as their supervisor would
            if worker.process.poll() is not None:
                workers[pool] = _start(fleet, pool)
        if now >= lock_at:
            lock_at = now + LOCKED_EVERY
            _publish(fleet, "lock", LOCKED_SECONDS)
        elif random.random() < 0.7:  # else nothing, for a while
            _send(fleet)
        time.sleep(random.uniform(1, 12))
    rows = fleet.rows("SELECT kind, data FROM crisper_event ORDER BY id")
    return [(str(kind), str(data)) for kind, data in rows if kind in NAMED]


def _start(fleet: Fleet, pool: str) -> Worker:
    given = ["-P", pool, "-c", POOLS[pool], "-Q", f"{pool},paused-{pool}", "-l", "WARNING"]
    return fleet.worker(pool, *given, wait=False)


def _wait_for_all(fleet: Fleet) -> None:
    give_up = time.monotonic() + 60
    while len(fleet.app.control.ping(timeout=1) or ()) < len(POOLS):
        assert time.monotonic() < give_up, "the workers do not answer"


def _send(fleet: Fleet) -> None:
    name, most = random.choice(BODIES)
    _publish(fleet, name, most if most > 5 else random.uniform(0, most))


def _publish(fleet: Fleet, name: str, seconds: float) -> None:
    with contextlib.suppress(OperationalError):
        for pool in POOLS:
            fleet.send(name, *((0,) if name == "noop" else (0, seconds)), queue=pool)


if __name__ == "__main__":
    sys.exit(main())
