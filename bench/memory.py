"""What Crisper adds to a worker's memory and to the registry's connections, by concurrency.

    python bench/memory.py [--concurrency 2 50 1000] [--tasks 2000]

One prefork worker on a Redis and a PostgreSQL of its own, plain and with Crisper, after so many no-op tasks.
Memory is private (USS: what would be free if the process ended), median of the children. Threads stand in
for the processes where there would be over 100: connections are the recorder's in any pool.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crisper.store.migrate import upgrade
from tests.faults.postgres import FaultyPostgres
from tests.fleet import Fleet, Worker, wait_for
from tests.servers import PrivateRedis

MOST_PROCESSES = 100


def private_mb(pid: int) -> float:
    rows = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines())
    kb = sum(int(row[1]) for row in rows if row[0] in ("Private_Clean:", "Private_Dirty:"))
    return kb / 1024


def used(worker: Worker) -> tuple[float, float, float]:
    """MB of the parent, its recorder and a pool process."""
    recorders, pool = worker.recorders(), worker.pool()
    return (
        private_mb(worker.pid),
        private_mb(recorders[0]) if recorders else 0.0,
        statistics.median(map(private_mb, pool)) if pool else 0.0,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--concurrency", type=int, nargs="+", default=[2, 50, 1000])
    parser.add_argument("--tasks", type=int, default=2000)
    options = parser.parse_args()
    with PrivateRedis() as redis, FaultyPostgres() as postgres:
        upgrade(postgres.url)
        for concurrency in options.concurrency:
            found = {
                plain: measured(redis.url, postgres, concurrency, options.tasks, plain)
                for plain in (True, False)
            }
            (parent, _, child, _), (our_parent, recorder, our_child, connections) = found[True], found[False]
            print(f"concurrency {concurrency}: connections {connections}; MB added to the parent"
                  f" {our_parent - parent:.1f}, recorder {recorder:.1f}, a child {our_child - child:.1f}",
                  flush=True)  # fmt: skip
    return 0


def measured(
    broker: str, postgres: FaultyPostgres, concurrency: int, tasks: int, plain: bool
) -> tuple[float, float, float, int]:
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder), broker=broker, backend=broker, registry=postgres.url, plain=plain)
        try:
            pool = ("-P", "threads") if concurrency > MOST_PROCESSES else ()
            worker = fleet.worker("bench", "-c", str(concurrency), *pool, "-l", "WARNING", wait=False)
            wait_for("answers", lambda: fleet.app.control.ping(timeout=1), 60)
            sent = [fleet.send("noop", key) for key in range(tasks)]
            wait_for("all done", lambda: all(one.ready() for one in sent[-1:]), 120)
            return *used(worker), postgres.connections()
        finally:
            fleet.close()


if __name__ == "__main__":
    sys.exit(main())
