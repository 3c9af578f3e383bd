"""Many open attempts of dead workers, and sweeps over them in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from crisper.core.model import Message
from crisper.recorder.witness import boot_id, pid_namespace
from crisper.store.open import open_store
from tests.store.acting import Actor, start

#: As much as a message of a usual task: what is kept of it must not pass through the sweeper.
BODY = Message(b"x" * 2000, '{"headers": {}}', 2000)

_SWEEP = """
import json, sys, time
from pathlib import Path
from crisper.engine.sweeper import Sweeper
from crisper.recorder.host import ThisHost
from crisper.store.open import open_store

def rss(which):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(which))

store = open_store(sys.argv[1])
sweeper = Sweeper(store, "one sweep", lease=20, host=ThisHost())
store.alive()
before, began = rss("VmRSS"), time.perf_counter()
done = [sweeper.tick(0)]
while done[-1].more and len(done) < int(sys.argv[2]):
    done.append(sweeper.tick(len(done)))
print(json.dumps({
    "declared": sum(len(swept.declared) for swept in done), "closed": sum(swept.closed for swept in done),
    "more": done[-1].more, "sweeps": len(done), "seconds": time.perf_counter() - began,
    "rss_before": before, "rss_after": rss("VmRSS"), "rss_max": rss("VmHWM"),
}))
"""


def leave_open(url: str, count: int, workers: int = 1) -> None:
    """So many running attempts of workers whose processes are gone."""
    store = open_store(url)
    place = {"boot_id": boot_id(), "pid_namespace": pid_namespace()}
    for worker in range(workers):
        gone = subprocess.Popen(["true"])
        gone.wait()
        dead = Actor(store, pid=gone.pid, pid_start=1, **place)
        mine = range(worker, count, workers)
        for first in range(0, len(mine), 500):
            claims = [dead.wants(f"stale-{n}", f"m-{n}", message=BODY) for n in mine[first : first + 500]]
            dead.record(*claims, *[start(claim, 0) for claim in claims])
    store.close()


def sweep(url: str, most: int = 1) -> dict[str, Any]:
    """What at most so many sweeps did, their seconds, and the memory of their process in MB."""
    done = subprocess.run(
        [sys.executable, "-c", _SWEEP, url, str(most)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result
