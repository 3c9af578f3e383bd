"""Bodies that run inside the worker's own process, in threads or greenlets: how each ends comes to its
request, whatever ended it, and one of them alone can be asked to end.

Of a pool process the kernel can be asked to end it. Of a greenlet the hub can: nothing else runs between the
hub's look at what the greenlet runs and the exception that it throws into it. A thread can only be given an
exception that it raises when its Python code goes on. It is given one while its body runs, under a lock that
the thread itself takes behind its body, to take back what it was given and has not raised: so the next body
never raises it.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from billiard.einfo import ExceptionInfo
from billiard.exceptions import SoftTimeLimitExceeded, Terminated, WorkerLostError
from celery.exceptions import WorkerShutdown, WorkerTerminate

from crisper.celery.frames import runs_the_body
from crisper.celery.held import Held

THREADS, GEVENT = "celery.concurrency.thread", "celery.concurrency.gevent"

#: In the place of "failed" in what the pool hands to `on_success`: no outcome of Celery's own.
OUTSIDE = 2
#: A greenlet that goes on all the same is asked again.
GRACE_SECONDS = 5.0


class Body(NamedTuple):
    """One that runs, or whose outcome is being stored."""

    seq: int
    thread: int
    greenlet: Any  # None in a thread


class Inside:
    """`around` on the loop's thread, `end` on the thread that takes orders."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._lock = threading.Lock()
        self._bodies: dict[int, Body] = {}
        self._told: dict[int, float] = {}

    def around(self, pool: Any, held: Held) -> Any:
        """What stands for the pool when a request gives its body to it."""
        return pool if pool.uses_semaphore else _Around(pool, self, held.seq)

    # -- in the thread or greenlet --------------------------------------------

    def run(self, seq: int, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """As the pool would; but that whatever it raises is an outcome, and reaches its request."""
        self._enter(seq)
        try:
            return target(*args, **kwargs)
        except (WorkerShutdown, WorkerTerminate):
            raise
        except Exception:
            return OUTSIDE, ExceptionInfo(), None
        except BaseException as exc:
            if type(exc).__name__ == "GreenletExit" and seq not in self._told:
                raise  # a revoke of Celery's own
            ended = Terminated(signal.SIGTERM) if seq in self._told else WorkerLostError(repr(exc))
            return OUTSIDE, _told_of(ended), None
        finally:
            self._leave_for_good(seq)

    def _enter(self, seq: int) -> None:
        with self._lock:
            self._bodies[seq] = Body(seq, threading.get_ident(), _greenlet() if self._is(GEVENT) else None)

    def _leave_for_good(self, seq: int) -> None:
        """What was given to this thread may be raised in here as well, once."""
        while True:
            try:
                self._leave(seq)
                return
            except SoftTimeLimitExceeded:
                continue

    def _leave(self, seq: int) -> None:
        with self._lock:
            body = self._bodies.pop(seq, None)
            if self._told.pop(seq, None) is not None and body is not None and body.greenlet is None:
                _give(body.thread, None)

    # -- from outside ---------------------------------------------------------

    def why_not(self, task: Any) -> str:
        """Why nobody can end a body of this task; empty: somebody can."""
        if self._is(GEVENT) or (self._is(THREADS) and is_soft(task)):
            return ""
        pool = type(self._worker.pool).__module__.rpartition(".")[2]
        asks = ', and does not ask for an exception (stop_by="soft")' if self._is(THREADS) else ""
        return f"it runs inside its worker's process (pool: {pool}){asks}"

    def end(self, held: Held, then: Callable[[], None]) -> None:
        """Ask this very attempt's body to end; `then` is called before it hears of it, if it does."""
        softly = is_soft(held.request.task)
        if self.why_not(held.request.task):
            return
        if self._is(THREADS):
            self._give_to(held.seq, then)
        else:
            import_module("gevent").get_hub().loop.run_callback(self._throw_into, held.seq, softly, then)

    def _give_to(self, seq: int, then: Callable[[], None]) -> None:
        with self._lock:
            body = self._bodies.get(seq)
            if body is None or seq in self._told:
                return
            if not runs_the_body(sys._current_frames().get(body.thread), seq):
                return  # Celery stores what it came to
            then()
            self._told[seq] = time.monotonic()
            _give(body.thread, SoftTimeLimitExceeded)

    def _throw_into(self, seq: int, softly: bool, then: Callable[[], None]) -> None:
        """In the hub: every greenlet stands."""
        body, now = self._bodies.get(seq), time.monotonic()
        if body is None or body.greenlet is None or not runs_the_body(body.greenlet.gr_frame, seq):
            return
        if seq in self._told and (softly or now < self._told[seq] + GRACE_SECONDS):
            return
        then()
        self._told[seq] = now
        body.greenlet.throw(SoftTimeLimitExceeded if softly else import_module("greenlet").GreenletExit)

    def _is(self, module: str) -> bool:
        return any(kind.__module__ == module for kind in type(self._worker.pool).__mro__)


class _Around:
    def __init__(self, pool: Any, inside: Inside, seq: int) -> None:
        self._pool, self._inside, self._seq = pool, inside, seq

    def apply_async(self, target: Callable[..., Any], args: tuple[Any, ...] = (), **options: Any) -> Any:
        return self._pool.apply_async(self._inside.run, (self._seq, target, *args), **options)


def is_soft(task: Any) -> bool:
    """Whether the task asks for the exception of a soft time limit when it is to stop."""
    return bool((getattr(task, "crisper", None) or {}).get("stop_by") == "soft")


def _give(thread: int, error: type[BaseException] | None) -> None:
    """An exception that the thread raises when its Python code goes on; None takes it back."""
    given = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), given)


def _greenlet() -> Any:
    return import_module("gevent").getcurrent()


def _told_of(error: BaseException) -> Any:
    try:
        raise error
    except BaseException:
        return ExceptionInfo()
