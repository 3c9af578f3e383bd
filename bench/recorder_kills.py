"""SIGKILL of the recorder alone, at random moments under load: what became of the tasks.

    python bench/recorder_kills.py [--kills 100] [--seed 1]

One prefork worker of four processes on a Redis and a PostgreSQL of its own, over
a stream of short tasks, late and early acks in turn. Ends with 1 if any task ran
twice or is not on record, or if any loss was declared.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crisper.store.migrate import upgrade
from tests.acceptance.recorder_kills import kill_recorders
from tests.fleet import Fleet
from tests.servers import PrivatePostgres, PrivateRedis


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with PrivateRedis() as redis, PrivatePostgres() as postgres, tempfile.TemporaryDirectory() as folder:
        upgrade(postgres.url)
        backend = redis.url.removesuffix("/0") + "/1"
        fleet = Fleet(Path(folder), broker=redis.url, backend=backend, registry=postgres.url)
        try:
            worker = fleet.worker("loaded", "-c", "4")
            began = time.monotonic()
            figures = kill_recorders(fleet, worker, options.kills, seed=options.seed)
            print(f"seconds          {time.monotonic() - began:9.1f}")
            for name, value in figures._asdict().items():
                print(f"{name.replace('_', ' '):<16} {value:9}")
            for line in fleet.errors():
                print(line)
            return 0 if figures.nothing_harmed else 1
        finally:
            fleet.close()


if __name__ == "__main__":
    sys.exit(main())
