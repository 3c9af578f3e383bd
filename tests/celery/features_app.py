"""For a worker started with `--include tests.celery.features_app`: a task for each feature of Celery's."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from tests.fleet_app import app

FOLDER = Path(os.environ["FLEET_FOLDER"])
NAME = "tests.celery.features_app."


def first_time(task: Task) -> bool:
    """Whether no body of this task id was here before."""
    try:
        (FOLDER / f"seen-{task.request.id}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def write(event: str, task: Task) -> None:
    name = task.name.rpartition(".")[2]
    line = f"{event} {name} {task.request.retries} {task.request.id} {os.getpid()} {time.time():.6f}\n"
    with (FOLDER / "ledger").open("a") as file:
        file.write(line)


def register(function: Any, name: str = "", **options: Any) -> None:
    def body(self: Task, *args: Any) -> Any:
        write("start", self)
        result = function(self, *args)
        write("end", self)
        return result

    app.task(bind=True, shared=False, name=NAME + (name or function.__name__), **options)(body)


def in_both_ways(function: Any, **options: Any) -> None:
    """As `early_…` and as `late_…`."""
    register(function, f"early_{function.__name__}", **options)
    register(function, f"late_{function.__name__}", acks_late=True, **options)


def nothing(self: Task) -> str:
    return "done"


def fails(self: Task) -> None:
    raise ValueError("no")


def fails_twice(self: Task) -> str:
    if self.request.retries < 2:
        raise ValueError("not yet")
    return "done"


def fails_always(self: Task) -> None:
    raise ValueError("never")


def softly(self: Task, catch: bool) -> str:
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded:
        if not catch:
            raise
    return "done"


def overruns(self: Task) -> str:
    """Its first time only: a requeue would have it run again."""
    if first_time(self):
        time.sleep(30)
    return "done"


def rejects(self: Task, requeue: bool) -> str:
    if first_time(self):
        raise Reject("not now", requeue=requeue)
    return "done"


def ignores(self: Task) -> None:
    raise Ignore


def dies(self: Task, times: int) -> str:
    """Ends its pool process, as the kernel does when memory is short, once its parent knows that it began:
    else Celery's pool gives the job to another process, as if it had not."""
    if first_time(self) or times > 1:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def dies_when_stored(self: Task) -> str:
    return "done"


def die_after_storing(self: Task, retval: Any, *args: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def replaces(self: Task) -> None:
    raise self.replace(app.tasks[f"{NAME}late_nothing"].s())


in_both_ways(nothing)
in_both_ways(fails)
in_both_ways(fails_twice, autoretry_for=(ValueError,), max_retries=2, default_retry_delay=0.3)
in_both_ways(fails_always, autoretry_for=(ValueError,), max_retries=1, default_retry_delay=0.3)
in_both_ways(softly, soft_time_limit=1)
in_both_ways(overruns, time_limit=1)
in_both_ways(rejects)
in_both_ways(ignores)
in_both_ways(replaces)
register(nothing, "unheard", acks_late=True, ignore_result=True)
register(nothing, "slowly", acks_late=True, rate_limit="5/s")
register(fails, "late_fails_unacked", acks_late=True, acks_on_failure_or_timeout=False)
register(overruns, "late_overruns_unacked", acks_late=True, time_limit=1, acks_on_failure_or_timeout=False)
# 5.7's own names for the two halves of that setting; before, they mean nothing
register(fails, "late_fails_unacked_57", acks_late=True, acks_on_failure=False)
register(overruns, "late_overruns_unacked_57", acks_late=True, time_limit=1, acks_on_timeout=False)
register(dies, "late_dies", acks_late=True, reject_on_worker_lost=True)
register(dies, "early_dies", reject_on_worker_lost=True)
again = {"retry_on_worker_lost": True, "max_retries": 1, "default_retry_delay": 0.3}
register(dies, "late_dies_and_retries", acks_late=True, **again)
register(dies, "early_dies_and_retries", **again)
register(dies_when_stored, acks_late=True, on_success=die_after_storing, **again)
