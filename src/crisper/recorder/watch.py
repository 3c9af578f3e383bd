"""The thread that watches over a parent that lives: it names what ails it, and ends it only if told to.

A thread of its own: taking a stack may take seconds, which no record and no heartbeat waits for.
"""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from crisper.core import stack
from crisper.core.model import Sighting
from crisper.engine.diagnosis import SILENT, WEDGED, WENT_ON, Diagnosis
from crisper.engine.wedged import Loop, WedgeWatch, sentence, speaks
from crisper.recorder import wire
from crisper.recorder.stacks import Stacks, kernel_says
from crisper.recorder.watch_attempts import AttemptWatch
from crisper.recorder.witness import Process, is_stopped

EVERY_SECONDS = 1.0
#: Between the SIGTERM and the SIGKILL that end a wedged parent, at most.
GRACE_MS = 10_000
#: For the shutdown of a silent one, which runs nothing.
SHUTDOWN_MS = 30_000
#: Between two stacks of a parent whose native thread does not run.
STACK_EVERY_MS = 5000


class WatchThread(threading.Thread):
    """`loop` says how the parent's loop stands, and the stack that it sent; `may_act` whether the fence
    holds; `tell` and `testify` are called from this thread."""

    def __init__(
        self,
        hello: dict[str, Any],
        parent: Process,
        stacks: Stacks,
        attempts: AttemptWatch,
        *,
        loop: Callable[[], tuple[Loop, str]],
        silent: Callable[[], tuple[Any, ...]],
        may_act: Callable[[], bool],
        testify: Callable[[Sighting], None],
        tell: Callable[[tuple[Any, ...]], None],
    ) -> None:
        super().__init__(name="crisper-watch", daemon=True)
        self._parent, self._stacks, self._attempts = parent, stacks, attempts
        self._loop, self._silent, self._may_act = loop, silent, may_act
        self._testify, self._tell = testify, tell
        self._actions = {WEDGED: hello["on_wedged"], SILENT: hello["on_silent"]}
        after_ms = int(hello["wedged_after"] * 1000)
        self._wedge, self._grace_ms = WedgeWatch(after_ms), min(GRACE_MS, after_ms)
        self._named: dict[str, Diagnosis] = {}
        self._stack_at, self._excused_until = 0, 0
        self._kill_at: int | None = None
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def named(self) -> list[Diagnosis]:
        """What ails the worker now. From any thread."""
        return [*self._named.values(), *self._attempts.named()]

    def run(self) -> None:
        while not self._stopped.wait(EVERY_SECONDS):
            try:
                self.tick()
            except Exception:
                self._tell((wire.TROUBLE, traceback.format_exc(limit=6)))

    def tick(self) -> None:
        """One look."""
        self._look_at_the_loop()
        self._look_at_silence()
        self._attempts.look()

    # -- wedged ---------------------------------------------------------------

    def _look_at_the_loop(self) -> None:
        loop, sent = self._loop()
        loop = loop._replace(stopped=is_stopped(self._parent.pid))
        suspected = self._wedge.look(loop)
        if WEDGED in self._named:
            if not suspected:
                self._goes_on(WEDGED, loop.at)
            else:
                self._end_wedged(loop)
        elif suspected and loop.at >= self._excused_until:
            self._judge(loop, sent)

    def _judge(self, loop: Loop, sent: str) -> None:
        """Where the parent's native thread has not spoken, something holds, or held, the interpreter lock: a
        body that does so is no fault of the loop's, nor is a broker that is away."""
        text = sent if speaks(loop) and sent else self._stacks.of(self._parent)
        if not speaks(loop) and (stack.holds_a_body(text) or stack.waits_for_a_broker(text)):
            self._excused_until = loop.at + STACK_EVERY_MS
            return
        said = sentence(loop, stack.where(text))
        evidence = {"loop_age_ms": loop.at - loop.ticked, **kernel_says(self._parent.pid), "stack": text}
        self._say(Diagnosis(WEDGED, said, loop.ticked, evidence))
        self._end_wedged(loop)

    def _end_wedged(self, loop: Loop) -> None:
        if self._actions[WEDGED] == "exit":
            self._end(WEDGED, loop.at, self._grace_ms)

    def _end(self, kind: str, now: int, grace_ms: int) -> None:
        """SIGTERM, and SIGKILL after a grace if it still is what it was; by pidfd, and only while the fence
        holds."""
        if not self._may_act():
            return
        if self._kill_at is None:
            self._act(kind, "ended by SIGTERM", signal.SIGTERM)
        elif now >= self._kill_at:
            self._act(kind, "ended by SIGKILL", signal.SIGKILL)
        else:
            return
        self._kill_at = now + grace_ms

    def _act(self, kind: str, action: str, number: int) -> None:
        self._testify(Sighting(f"{kind}_{'exit'}", {"action": action, "pid": self._parent.pid}))
        self._tell((wire.LOG, "error", f"this worker is {kind} and is {action}, as crisper_on_{kind} says"))
        self._parent.kill(number)

    # -- silent ---------------------------------------------------------------

    def _look_at_silence(self) -> None:
        """The parent judges it, and reconnects where that is wanted: it alone speaks to the broker."""
        said = self._silent()
        if not said:
            return
        _, at, since, words, queue, waiting = said
        if words:
            if SILENT not in self._named:
                evidence = {"queue": queue, "waiting": waiting, "action": self._actions[SILENT]}
                self._say(Diagnosis(SILENT, words, since, evidence))
            self._end_silent()
        elif SILENT in self._named:
            self._goes_on(SILENT, at)

    def _end_silent(self) -> None:
        """A shutdown may hang on the very connection that is broken. Nothing runs here."""
        if self._actions[SILENT] == "exit":
            self._end(SILENT, now_ms(), SHUTDOWN_MS)

    # -- both -----------------------------------------------------------------

    def _say(self, one: Diagnosis) -> None:
        self._named[one.kind] = one
        self._testify(Sighting(one.kind, {"sentence": one.sentence, **one.evidence}))
        self._tell((wire.LOG, "error", f"this worker is {one.kind}: {one.sentence}"))

    def _goes_on(self, kind: str, now: int) -> None:
        was = self._named.pop(kind)
        self._kill_at = None
        seconds = (now - was.since_ms) // 1000
        self._testify(Sighting(WENT_ON, {"was": kind, "seconds": seconds}))
        self._tell((wire.LOG, "warning", f"this worker is not {kind} any more, after {seconds} s"))


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
