"""Which attempts run for longer than they may say: told to the recorder, which knows their progress.

Looked at once a second by the keeper's native thread, which goes on while a solo body keeps the loop. What is
within its bounds costs nothing but the look.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from types import FrameType
from typing import Any, NamedTuple

from crisper.celery.held import Held, Stage
from crisper.celery.inside import Inside
from crisper.celery.link import Link, monotonic_ms
from crisper.celery.stacks import of_frame
from crisper.core.stack import bounded
from crisper.engine.stalled import Long, Usual, is_long
from crisper.recorder import wire
from crisper.settings import Settings

#: Of those that are told of at a time.
MOST = 100


class Policy(NamedTuple):
    stall_after: int  # milliseconds; 0: never by progress
    on_stalled: str


class Stalls:
    """`look` on the keeper's thread; `ran` wherever an outcome comes in."""

    def __init__(self, worker: Any, link: Link, inside: Inside, settings: Settings) -> None:
        self._worker, self._link, self._inside, self._settings = worker, link, inside, settings
        self._policies: dict[str, Policy] = {}
        self.usual = Usual(settings.stall_usual) if settings.stall_usual else None
        self._told = False

    def look(self, held: Collection[Held]) -> None:
        """Tell of those that are beyond a bound, each time anew; and once that there are none any more."""
        now = monotonic_ms()
        told = [self._long(one, now) for one in held if self._is_told_of(one, now)]
        told = sorted(told, key=lambda one: one.age, reverse=True)[:MOST]
        if told or self._told:
            self._link.send((wire.LONG, now, [tuple(one) for one in told]))
            self._link.flush()
        self._told = bool(told)

    def begun(self, held: Held) -> None:
        """A body begins inside this process, and may keep all its threads from now on: whoever looks at it
        then must know its bounds. The caller flushes."""
        if any(self._bounds(held)):
            now = monotonic_ms()
            self._link.send((wire.LONG, now, [tuple(self._long(held, now))], True))
            self._told = True

    def _is_told_of(self, one: Held, now: int) -> bool:
        """One inside this process as soon as it has a bound, see `begun`."""
        if one.stage is not Stage.DISPATCHED or not one.accepted or one.muted:
            return False
        if now - one.accepted_at < 1000 and not self._inside_us():
            return False
        bounds = self._bounds(one)
        return any(bounds) if self._inside_us() else is_long(now - one.accepted_at, *bounds)

    def _bounds(self, one: Held) -> tuple[int, int, int]:
        usual = 0 if self.usual is None else self.usual.beyond(one.request.name)
        return self._policy(one.request.task).stall_after, limit_of(one.request), usual

    def _inside_us(self) -> bool:
        return not self._worker.pool.uses_semaphore

    def _long(self, one: Held, now: int) -> Long:
        inside, age, bounds = self._inside_us(), now - one.accepted_at, self._bounds(one)
        pid = self._link.pid if inside else one.request.worker_pid or 0
        stack, why_not = "", self._inside.why_not(one.request.task) if inside else ""
        if inside and is_long(age, *bounds):
            stack = bounded(of_frame(body_of(self._worker.pool, one.task_id)))
            why_not = why_not if stack else "nothing in its process runs it"
        policy = self._policy(one.request.task)
        number, name = one.number, str(one.request.name)
        return Long(one.seq, number, one.task_id, name, pid, age, *bounds, policy.on_stalled, why_not, stack)

    def _policy(self, task: Any) -> Policy:
        policy = self._policies.get(task.name)
        if policy is None:
            policy = self._policies[task.name] = policy_of(task, self._settings)
        return policy


def policy_of(task: Any, settings: Settings) -> Policy:
    """What the task says, or the settings."""
    own = getattr(task, "crisper", None) or {}
    after = float(own.get("stall_after", settings.stall_after))
    return Policy(int(after * 1000), str(own.get("on_stalled", settings.on_stalled)))


def limit_of(request: Any) -> int:
    """The hard time limit of this message or its task, else the soft one, in milliseconds; 0: none."""
    limits = request.time_limits or (None, None)
    hard = limits[0] or request.task.time_limit
    soft = limits[1] or request.task.soft_time_limit
    return int((hard or soft or 0) * 1000)


def body_of(pool: Any, task_id: str) -> FrameType | None:
    """The innermost frame of the thread or greenlet that runs this task; None if it is not found."""
    for frame in _innermost(pool):
        outer: FrameType | None = frame
        while outer is not None:
            if outer.f_code.co_name == "trace_task" and outer.f_locals.get("uuid") == task_id:
                return frame
            outer = outer.f_back
    return None


def _innermost(pool: Any) -> Iterator[FrameType]:
    yield from sys._current_frames().values()
    for greenlet in list(getattr(getattr(pool, "_pool", None), "greenlets", ())):
        if greenlet.gr_frame is not None:
            yield greenlet.gr_frame
