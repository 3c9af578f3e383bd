"""What task code sees of its own attempt: `crisper.current_attempt()`. It speaks to no database.

What it says goes to the recorder as a datagram, from whatever process or thread runs the body; the recorder
writes it down with its next heartbeat. Without a worker nobody listens, and everything answers all the same.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic
from typing import Any

from celery import states
from celery._state import get_current_task
from celery.app.task import Task

from crisper.celery.checkpoint import as_text, item_of, send, send_and_wait
from crisper.core.progress import progress, progress_of_state
from crisper.recorder import wire

#: Of what an attempt says of its progress, so many datagrams may leave at once, and one a second in the long
#: run: a heartbeat, which carries it on, comes every four.
AT_ONCE = 5
#: How long a durable checkpoint waits for a registry that does not answer, in seconds.
DURABLE_SECONDS = 30.0

#: What values that make no sense raise. Not more: a soft time limit may be raised in the middle of our code,
#: and is the task's.
NONSENSE = (TypeError, ValueError, AttributeError, ArithmeticError, LookupError)

Send = Callable[[tuple[Any, ...]], None]


class CurrentAttempt:
    """The attempt that is running here; false where none is on record: in tests, eager mode, plain calls.

    `task_id` is None where code runs outside of any task. `number` counts a task's attempts from 1; it is 0
    where none is on record, and while the registry cannot be reached, which gives out the numbers.

    It may be handed to threads that work for the task. What it says once its body has ended means nothing.
    """

    __slots__ = (
        "_checkpoint", "_left", "_outer", "_quiet_until", "_said_at", "_send", "_seq", "number", "task_id",
    )  # fmt: skip

    def __init__(
        self, task_id: str | None, number: int = 0, seq: int = 0, checkpoint: str = "",
        send: Send | None = None,
    ) -> None:  # fmt: skip
        self.task_id, self.number = task_id, number
        self._seq, self._checkpoint, self._send = seq, checkpoint, send
        self._left, self._said_at = float(AT_ONCE), 0.0
        self._outer: CurrentAttempt | None = None
        self._quiet_until = 0.0 if send is not None else float("inf")

    def __bool__(self) -> bool:
        return self._seq > 0

    def __repr__(self) -> str:
        return f"<attempt {self.number} of {self.task_id}>" if self else "<no attempt on record>"

    def progress(self, done: Any, total: Any = None, note: str | None = None) -> None:
        """Say how far this attempt is: `done` of `total`, both numbers, and in a few words what it does.

        For every row of a loop: it never blocks and never raises, and all but a call a second go nowhere and
        cost less than a microsecond; `done == total` always gets through. So what people see, in `crisper
        show`, `crisper top` and the dashboard, is at most a second and a heartbeat behind.
        """
        try:
            if monotonic() < self._quiet_until and done != total:
                return
            self._say(done, total, note)
        except NONSENSE:
            return

    def _say(self, done: Any, total: Any, note: str | None) -> None:
        said = progress(done, total, note)
        if self._send is None or said is None:
            return
        now = monotonic()
        self._left = max(0.0, min(AT_ONCE, self._left + now - self._said_at) - 1)
        self._said_at, self._quiet_until = now, now + max(0.0, 1 - self._left)
        self._send((wire.PROGRESS, self._seq, *said))

    @property
    def last_checkpoint(self) -> Any:
        """Where to go on from: what the last `checkpoint` of this attempt, or of the task's earlier ones, was
        given, as JSON brings it back; None if there is none."""
        return json.loads(self._checkpoint) if self._checkpoint else None

    def checkpoint(self, data: Any, *, durable: bool = False, timeout: float = DURABLE_SECONDS) -> str:
        """Keep `data`, JSON of at most 32 KiB, for the task's next attempt, in place of what was kept before.

        It is the recorder's within a moment, and survives the death of this process and of its worker; the
        registry has it a quarter of a second later. With `durable`, it is committed before this returns, and
        survives the host: answers where it is safe, `"registry"`, or, while that cannot be reached,
        `"journal"`, which is this host's disk. Otherwise answers `""`, and so without a worker, where
        nothing is kept.

        Raises `crisper.errors.CheckpointError` for what is no JSON or too large, and, with `durable`, if it
        is not on record within `timeout` seconds or the attempt is fenced.
        """
        text = as_text(data)
        safe = ""
        if self._send is not None and _words is not None:
            item = item_of(self._seq, str(self.task_id), text, durable)
            if durable:
                safe = send_and_wait(_words, item, timeout)
            else:
                send(_words, item)
        if self:
            self._checkpoint = text
        return safe

    def _over(self) -> None:
        self._send, self._quiet_until = None, float("inf")


_NOBODY = CurrentAttempt(None)
_send: Send | None = None
_words: socket.socket | None = None
#: Of each thread, greenlet and coroutine its own; a lookup here costs a hundredth of one in Celery's stacks.
_current: ContextVar[CurrentAttempt | None] = ContextVar("crisper_attempt", default=None)


def current() -> CurrentAttempt:
    """See `crisper.current_attempt`."""
    attempt = _current.get()
    if attempt is not None:
        return attempt
    task = get_current_task()  # eager, and no worker has told us that it began
    task_id = None if task is None else task.request.id
    return _NOBODY if task_id is None else CurrentAttempt(str(task_id))


def begins(task_id: str, request: Any) -> None:
    """A body begins in this process: an attempt's, or that of a task that one calls eagerly."""
    known = getattr(request, "crisper", None)
    seq, number, checkpoint = known or (0, 0, "")
    attempt = CurrentAttempt(task_id, number, seq, checkpoint, _send if known else None)
    attempt._outer = _current.get()
    _current.set(attempt)


def ended(task_id: str) -> None:
    """It has ended, in the thread where it began."""
    attempt = _current.get()
    if attempt is not None and attempt.task_id == task_id:
        attempt._over()
        _current.set(attempt._outer)


def use(words: socket.socket | None, send: Send | None) -> None:
    """From now on attempts speak by these; None: to nobody. Celery's own `update_state` is progress."""
    global _send, _words
    _send, _words = send, words
    Task.update_state = _update_state if send is not None else _store_state


_store_state = Task.update_state


def _update_state(self: Any, task_id: Any = None, state: Any = None, meta: Any = None, **kwargs: Any) -> None:
    """Celery's own, and what it says of progress."""
    _store_state(self, task_id=task_id, state=state, meta=meta, **kwargs)
    with contextlib.suppress(*NONSENSE):
        attempt = current()
        if state not in states.READY_STATES and task_id in (None, attempt.task_id):
            said = progress_of_state(str(state), meta)
            if said is not None:
                attempt._say(*said)
