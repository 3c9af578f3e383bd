"""What Celery's prefork pool would run twice, or run unheard, or wait for in vain.

Its parent hears from a process that a job was accepted, and the body begins at once. Two of its habits
forget what it has not heard yet: a lost connection and a shutdown discard such jobs (asynpool.py, flush);
and where a process ends while another one's end is dealt with, its job is given to a third, though its word
may lie unread in the pipe (billiard's pool.py, _join_exited_workers).

And it waits for ever for a process whose end it was not told: somebody else in the parent waited for it, a
signal handler or a library, and then `waitpid` knows no such process (billiard's popen_fork.py, poll, takes
that for "not started yet"; billiard #389).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from inspect import isgenerator
from typing import Any

from celery.utils.log import get_logger

from crisper.celery.deliveries import Deliveries
from crisper.celery.ending import frozen
from crisper.celery.held import Held
from crisper.recorder.witness import Process

logger = get_logger(__name__)

#: What a process has begun to say takes it no longer to say.
HEAR_SECONDS = 1.0
#: Nor to end, once it is killed.
END_SECONDS = 5.0

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
        process = self._process(pid)
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

    def is_unnoticed(self, pid: int) -> bool:
        """Whether this process of the pool is gone, and the pool cannot learn it."""
        process = self._process(pid)
        return process is not None and process.exitcode is None and _is_nobody(pid)

    def _process(self, pid: int) -> Any:
        return next((one for one in self._worker.pool._pool._pool if one.pid == pid), None)

    def _flush(self) -> None:
        """A child that was sent a job would still run it, unheard. Stop such a child; its job comes again.

        Celery 5.5 may discard those that run as well: nobody would hear of their end."""
        kept: dict[Any, Any] = {}
        pool = self._worker.pool._pool
        if pool is not None:  # else a shutdown has stopped it
            with self._deliveries.counted("flushing the pool"):
                queued = self._stop_unheard()
                kept = {id: job for id, job in tuple(pool._cache.items()) if job in queued or _runs(job)}
        self._pool_flush()
        if kept:
            pool._cache.update(kept)

    def _stop_unheard(self) -> list[Any]:
        """The jobs that cannot be, because they wait behind one that runs in the same process."""
        pool = self._worker.pool._pool
        unheard = {held.request.id: held for held in self._deliveries.unaccepted()}
        killed, queued = [], []
        for job in tuple(pool._cache.values()):
            held = unheard.get(getattr(job, "correlation_id", None))
            if held is None or job._accepted:
                continue
            process = getattr(job, "_write_to", None)
            if process is not None:
                if not self._kill_unless_it_runs(process, job):
                    queued += [] if job._accepted else [job]
                    continue
                killed.append(process)
            self._deliveries.abandon(held, "given back before it began")
        if killed:
            # Else the pool would give their pipes, and what is unread in them, to the processes that follow.
            _await_ends(killed)
            pool.maintain_pool()
        return queued

    def _kill_unless_it_runs(self, process: Any, job: Any) -> bool:
        """Kill the process unless it runs this job, or another one.

        It says so before it begins one: what stands still, and has said nothing, has not begun, and will not.
        """
        signalled = Process(process.pid, None)
        give_up = time.monotonic() + HEAR_SECONDS
        try:
            while True:
                self._hear(process)
                if job._accepted or self._runs_any(process):
                    return False
                with frozen(signalled) as stands:
                    if (stands and not self._is_speaking(process)) or time.monotonic() > give_up:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(process.pid, signal.SIGKILL)
                        return True
        finally:
            signalled.close()

    def _runs_any(self, process: Any) -> bool:
        jobs = tuple(self._worker.pool._pool._cache.values())
        return any(_runs(job) and process.pid in job.worker_pids() for job in jobs)

    def _hear(self, process: Any) -> None:
        """As the loop does, which may have read a part of it already. Each reader puts the next one in its
        place: one that does not has come to the end, or knows of no such process any more."""
        readers, fd = self._worker.hub.readers, process.outqR_fd
        with contextlib.suppress(OSError, EOFError):
            while process.outq._reader.poll(0):
                listen, about = readers.get(fd) or (self._worker.pool._pool.handle_result_event, (fd,))
                with contextlib.suppress(StopIteration):
                    next(listen) if isgenerator(listen) else listen(*about)
                if fd not in readers:
                    return

    def _is_speaking(self, process: Any) -> bool:
        """Whether there is something to be heard, or the end of it has yet to be said."""
        listen, _ = self._worker.hub.readers.get(process.outqR_fd) or (None, ())
        with contextlib.suppress(OSError):  # it is closed: nobody speaks there
            return isgenerator(listen) or bool(process.outq._reader.poll(0))
        return False


def _runs(job: Any) -> bool:
    return bool(job._accepted and not job.ready())


def _await_ends(processes: list[Any]) -> None:
    give_up = time.monotonic() + END_SECONDS
    while any(one.exitcode is None for one in processes) and time.monotonic() < give_up:
        time.sleep(0.001)


def _is_nobody(pid: int) -> bool:
    """Whether no child of ours has this pid any more: what we never waited for, somebody else has."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return False
    return True
