"""The pool child's side: its own word about how a body ended. It speaks to no database."""

from __future__ import annotations

import marshal
import os
import select
import time
from typing import Any

from celery import signals
from celery.utils.log import get_logger

from crisper.celery import attempt
from crisper.celery.link import Link
from crisper.recorder import wire

logger = get_logger(__name__)

#: How long a publish inside a worker waits for its recorder to take the note, in seconds.
NOTE_SECONDS = 1.0


class Child:
    """Connected in the parent, so that every forked child has it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._started: dict[str, float] = {}
        self._noted = 0

    def connect(self) -> None:
        signals.worker_process_init.connect(self._born, weak=False)
        signals.task_prerun.connect(self._begins, weak=False)
        signals.task_postrun.connect(self._ended, weak=False)
        attempt.use(self._link.words, self._send)

    def disconnect(self) -> None:
        signals.worker_process_init.disconnect(self._born)
        signals.task_prerun.disconnect(self._begins)
        signals.task_postrun.disconnect(self._ended)
        attempt.use(None, None)

    def _born(self, **kwargs: Any) -> None:
        """A child was forked: let go of the parent's wire, and tell the recorder of us."""
        if os.getpid() == self._link.pid:
            return
        self._link.forget_in_child()
        self._send((wire.CHILD, os.getpid()))

    def _begins(self, task_id: str | None = None, task: Any = None, **kwargs: Any) -> None:
        if not task_id:
            return
        attempt.begins(task_id, getattr(task, "request", None))
        if os.getpid() != self._link.pid:
            self._started[task_id] = time.monotonic()

    def _ended(self, task_id: str | None = None, task: Any = None, state: Any = None, **kwargs: Any) -> None:
        """The result is stored; the parent has not heard of it yet, and may never."""
        if not task_id:
            return
        attempt.ended(task_id)
        if os.getpid() == self._link.pid:
            return
        began = self._started.pop(task_id, time.monotonic())
        known = getattr(getattr(task, "request", None), "crisper", None)
        if not known:
            return
        said = "REJECTED" if state == "FAILURE" and _goes_back(task) else state
        runtime_ms = int((time.monotonic() - began) * 1000)
        self._send((wire.WORD, known[0], task_id, str(said), runtime_ms))

    def note(self, note: tuple[Any, ...]) -> None:
        """A message was published, in the parent or in a child. Never raises; waits a moment at most."""
        self._noted += 1
        give_up = time.monotonic() + NOTE_SECONDS
        try:
            for part in wire.parts(os.getpid(), self._noted, note):
                self._send_in_time(part, give_up)
        except (OSError, ValueError) as exc:
            logger.error("crisper: a message was published without a record: %r", exc)

    def _send_in_time(self, part: bytes, give_up: float) -> None:
        """A socket holds ten datagrams, or 200 kB: more than that the recorder has to take in meanwhile."""
        words = self._link.words
        while True:
            try:
                words.send(part)
                return
            except BlockingIOError:
                left = give_up - time.monotonic()
                if left <= 0 or not select.select([], [words], [], left)[1]:
                    raise

    def _send(self, item: tuple[Any, ...]) -> None:
        try:
            self._link.words.send(marshal.dumps(item))
        except OSError as exc:  # a full buffer costs this evidence, never the task
            if exc.errno is None:  # raised by a signal handler of the task's own
                raise


def _goes_back(task: Any) -> bool:
    """Whether Celery will reject the message of a failure instead of acknowledging it."""
    acks = getattr(task, "acks_on_failure", None)
    acks = task.acks_on_failure_or_timeout if acks is None else acks
    return bool(task.acks_late and not acks)
