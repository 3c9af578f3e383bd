"""What Celery's prefork pool would run twice, or run unheard, or wait for in vain.

Its parent hears from a process that a job was accepted, and the body begins at once. Two of its habits forget
what it has not heard yet: a lost connection discards such jobs (asynpool.py, flush), and when a process ends
while another one's end is dealt with, its job is given to a third, though its word may lie unread in the pipe
(billiard's pool.py, _join_exited_workers).

And it waits for ever for a process whose end it was not told: somebody else in the parent waited for it, a
signal handler or a library, and then `waitpid` knows no such process (billiard's popen_fork.py, poll, takes
that for "not started yet"; billiard #389).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

from celery.utils.log import get_logger

from crisper.celery.deliveries import Deliveries
from crisper.celery.held import Held

logger = get_logger(__name__)

#: How a process ended that somebody else waited for: unknown.
UNKNOWN_END = 255


class PoolGuard:
    """Wraps the pool of one worker."""

    def __init__(self, worker: Any, deliveries: Deliveries) -> None:
        self._worker, self._deliveries = worker, deliveries
        self._pool_flush: Callable[[], None]
        self._put_back: Callable[[Any, int], None]

    def wrap(self) -> None:
        pool = self._worker.pool
        if getattr(pool, "flush", None) and hasattr(getattr(pool, "_pool", None), "_cache"):
            self._pool_flush, pool.flush = pool.flush, self._flush
        processes: Any = getattr(pool, "_pool", None)
        if hasattr(processes, "on_job_process_down") and hasattr(processes, "process_flush_queues"):
            self._put_back, processes.on_job_process_down = processes.on_job_process_down, self._process_down

    def _process_down(self, job: Any, pid: int) -> None:
        """Read what a dead process has said before its job is put back: if the body began there, its end is
        a loss. The pool sees to that when it looks at its processes next, which their ends make it do."""
        with self._deliveries.counted("reading what a dead process said"):
            if not job._accepted and job._write_to is not None and not job._write_to._is_alive():
                self._worker.pool._pool.process_flush_queues(job._write_to)
                if job._accepted:
                    return
        self._put_back(job, pid)

    def bury(self, held: Held, pid: int) -> None:
        """The recorder says that this process is gone, which ran this attempt. If that is so, the pool learns
        it, and deals with it in its own way: what the process has said is read before it is given up."""
        pool: Any = self._worker.pool._pool
        process = next((one for one in pool._pool if one.pid == pid), None)
        if process is not None and process.exitcode is None:
            if not _is_nobody(pid):
                return
            process._popen.returncode = UNKNOWN_END
        logger.warning(
            "crisper: process %s is gone, which ran %s, and the pool had not noticed for %.1f s",
            *(pid, held.task_id, held.unnoticed_ms / 1000),
        )
        if self._worker.hub is not None:
            pool.maintain_pool()
        elif process is not None:
            return  # a thread of the pool's own sees to it; if it forgets the job, we are told again
        for job in tuple(pool._cache.values()):
            of_it = getattr(job, "correlation_id", None) == held.request.id and pid in job.worker_pids()
            if of_it and job._accepted and not job.ready():
                pool.mark_as_worker_lost(job, UNKNOWN_END)

    def _flush(self) -> None:
        """A child that was sent a job would still run it, unheard. Stop such a child; its job comes again.

        Celery 5.5 may discard those that run as well: nobody would hear of their end."""
        running: dict[Any, Any] = {}
        if self._worker.pool._pool is not None:  # else a shutdown has stopped it
            with self._deliveries.counted("flushing the pool"):
                self._stop_unheard()
                cache = self._worker.pool._pool._cache
                running = {id: job for id, job in tuple(cache.items()) if job._accepted and not job.ready()}
        self._pool_flush()
        if running:
            cache.update(running)

    def _stop_unheard(self) -> None:
        unheard = {held.request.id: held for held in self._deliveries.unaccepted()}
        for job in tuple(self._worker.pool._pool._cache.values()):
            held = unheard.get(getattr(job, "correlation_id", None))
            if held is None or job._accepted:
                continue
            process = getattr(job, "_write_to", None)
            if process is not None:
                os.kill(process.pid, 9)
            self._deliveries.abandon(held, "its connection was lost before it began")


def _is_nobody(pid: int) -> bool:
    """Whether no child of ours has this pid any more: what we never waited for, somebody else has."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return False
    return True
