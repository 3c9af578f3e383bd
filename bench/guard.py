"""Whether the worker's parent does more for a task than it did: calls that Crisper's code makes, per task.

    python bench/guard.py [--tasks 2000] [--where]

A count does not depend on the machine, nor on what else it does. One prefork worker on a Redis of its own,
its registry in a SQLite file, no-op tasks with late acks. Ends with 1 if the count is over `MOST`; then find
the cause (`--where` names the functions), or raise the figure in the commit that says why.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import redis

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.throughput import measure
from tests.fleet import Fleet, wait_for
from tests.servers import PrivateRedis

#: Calls per task; a tenth more than measured, because what a turn of the loop costs is shared by its tasks.
#: Thirty more are for slots that are lent while commits take over 10 ms, as they do on a busy machine.
MOST = 210.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--where", action="store_true", help="the functions that make most of them")
    options = parser.parse_args()
    calls = counted(options.tasks)
    per_task = sum(calls.values()) / options.tasks
    print(f"calls of Crisper's in the parent, per task   {per_task:.1f}, at most {MOST:g}")
    if options.where:
        for name, times in sorted(calls.items(), key=lambda item: -item[1])[:30]:
            print(f"{times / options.tasks:8.2f}  {name}")
    return 0 if per_task <= MOST else 1


def counted(tasks: int) -> dict[str, int]:
    with PrivateRedis() as server, tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder), broker=server.url, backend=server.url.removesuffix("/0") + "/1")
        fleet.module = "bench.counted_app"
        try:
            worker = fleet.worker("counted", "-l", "WARNING", wait=False)
            wait_for("answers", lambda: fleet.app.control.ping(timeout=1), 30)
            with redis.Redis.from_url(server.url) as client:
                measure(fleet, worker, client, tasks)
            worker.stop()
            return dict(json.loads((fleet.folder / "calls.json").read_text()))
        finally:
            fleet.close()


if __name__ == "__main__":
    sys.exit(main())
