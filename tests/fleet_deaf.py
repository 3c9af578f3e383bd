"""For a worker started with `--include tests.fleet_deaf`: its pool is flushed at the worst moment.

Once the test has made a file `deaf-until-shutdown` or `deaf-until-lost`, the worker's loop stands still
when it has written a job to a pool process and has heard nothing of it yet, and makes a file `standing`.
When the file `go` is there too, it shuts down, or its connection is lost, in the same turn: before it could
hear of the job. When the pool has been flushed, it makes a file `flushed`.

FLEET_DOUBLE_BOOKED: a process is given a second job while it runs the first, as Celery 5.5 does after a lost
connection.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from celery.exceptions import WorkerShutdown
from celery.signals import worker_ready

FOLDER = Path(os.environ.get("FLEET_FOLDER", "."))
ENDS: dict[str, BaseException] = {"shutdown": WorkerShutdown(0), "lost": ConnectionResetError("by a test")}


@worker_ready.connect
def be_deaf(sender: Any, **_: Any) -> None:
    pool = sender.controller.pool._pool

    def tick() -> None:
        if double_booked:
            pool._busy_workers.clear()
        for end, error in ENDS.items():
            deaf = FOLDER / f"deaf-until-{end}"
            unheard = [job for job in pool._cache.values() if job._write_to and not job._accepted]
            if deaf.exists() and unheard and not pool._active_writers:
                (FOLDER / "standing").touch()
                while not (FOLDER / "go").exists():
                    time.sleep(0.01)
                deaf.unlink()
                raise error

    double_booked = "FLEET_DOUBLE_BOOKED" in os.environ
    if double_booked:
        sender.controller.semaphore.grow(1)
    flush = sender.controller.pool.flush

    def flushed() -> None:
        flush()
        (FOLDER / "flushed").touch()

    sender.controller.pool.flush = flushed
    sender.controller.hub.on_tick.add(tick)
