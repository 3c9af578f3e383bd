"""Many open attempts of one dead worker, and one sweep over them in a process of its own."""

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
swept = sweeper.tick(0)
print(json.dumps({
    "declared": len(swept.declared), "closed": swept.closed, "more": swept.more,
    "seconds": time.perf_counter() - began,
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


def sweep_once(url: str) -> dict[str, Any]:
    """What one sweep did, its seconds, and the memory of its process in MB."""
    done = subprocess.run(
        [sys.executable, "-c", _SWEEP, url],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result
