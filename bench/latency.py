"""What Crisper adds to one task on an idle worker: from publishing to the first line of its body.

    python bench/latency.py [--tasks 400] [--every 0.05]

Two idle prefork workers on one Redis, one of plain Celery, one with Crisper in strict recording on a
PostgreSQL of its own with its defaults; they get a late-acked task in turn, each when the one before has
long ended. The figures are of both, and what one adds to the other at the same share.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crisper.store.migrate import upgrade
from tests.fleet import Fleet, wait_for
from tests.servers import PrivatePostgres, PrivateRedis

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


def waits(fleet: Fleet, published: dict[str, float]) -> list[float]:
    """Milliseconds, ascending."""
    wait_for("all have begun", lambda: len(fleet.starts()) >= len(published), 60)
    return sorted((line.at - published[line.task_id]) * 1000 for line in fleet.starts())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=400, help="for each of the two")
    parser.add_argument("--every", type=float, default=0.05)
    options = parser.parse_args()
    with (
        PrivatePostgres() as postgres,
        PrivateRedis() as server,
        tempfile.TemporaryDirectory() as plain_folder,
        tempfile.TemporaryDirectory() as folder,
    ):
        upgrade(postgres.url)
        broker = server.url.removesuffix("/0")
        fleets = {
            "plain Celery": Fleet(
                Path(plain_folder), broker=f"{broker}/0", backend=f"{broker}/1", plain=True
            ),
            "Crisper": Fleet(
                Path(folder), broker=f"{broker}/2", backend=f"{broker}/3", registry=postgres.url
            ),
        }
        try:
            for fleet in fleets.values():
                fleet.worker("bench")
            published: dict[str, dict[str, float]] = {name: {} for name in fleets}
            for _ in range(options.tasks):
                for name, fleet in fleets.items():
                    time.sleep(options.every)
                    at = time.time()
                    published[name][fleet.send("late", 0, 0).id] = at
            found = {name: waits(fleet, published[name]) for name, fleet in fleets.items()}
        finally:
            for fleet in fleets.values():
                fleet.close()
    for name, share in SHARES.items():
        plain, ours = (found[way][int(share * (options.tasks - 1))] for way in found)
        print(f"{name}: plain Celery {plain:5.1f} ms, Crisper {ours:5.1f} ms, added {ours - plain:5.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
