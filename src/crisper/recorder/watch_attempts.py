"""Naming attempts that are stalled, with what their process does, and stopping them only if told to."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from crisper.core import stack
from crisper.core.model import Sighting
from crisper.engine.diagnosis import STALLED, WENT_ON, Diagnosis
from crisper.engine.stalled import Long, Stalled, judge, sentence
from crisper.recorder import wire
from crisper.recorder.pulse import Stop
from crisper.recorder.stacks import Stacks, kernel_says
from crisper.recorder.witness import Process

#: Between two looks at the CPU time of a process.
CPU_SECONDS = 0.3
#: Attempts that are named in one look: each takes a moment.
AT_ONCE = 8
#: Of those that a heartbeat carries.
MOST_TOLD = 20


class AttemptWatch:
    """Owned by the watching thread. `long` says what the parent said last, `quiet` how long an attempt has
    said nothing of its progress, `process` gives the process of a pid."""

    def __init__(
        self,
        stacks: Stacks,
        *,
        long: Callable[[], tuple[Any, ...]],
        quiet: Callable[[int, int], int | None],
        process: Callable[[int], Process],
        stop: Callable[[Stop], None],
        may_act: Callable[[], bool],
        testify: Callable[[Sighting], None],
        tell: Callable[[tuple[Any, ...]], None],
    ) -> None:
        self._stacks, self._long, self._quiet, self._process = stacks, long, quiet, process
        self._stop, self._may_act, self._testify, self._tell = stop, may_act, testify, tell
        self._named: dict[int, Diagnosis] = {}
        self._stopped: set[int] = set()

    def named(self) -> list[Diagnosis]:
        """From any thread."""
        return list(self._named.values())[:MOST_TOLD]

    def look(self) -> None:
        """One look at all that run for longer than they may say."""
        said = self._long()
        if not said:
            return
        at, long = said[1], {one.seq: one for one in (Long(*plain) for plain in said[2])}
        for seq in self._named.keys() - long.keys():
            del self._named[seq]  # it has ended: its own record says how
        self._stopped &= long.keys()
        left = AT_ONCE
        for seq, one in long.items():
            stalled = judge(one, self._quiet(seq, at))
            if stalled is None:
                self._goes_on(seq, at)
            elif seq not in self._named and left:
                left -= 1
                self._name(one, stalled, at)
            if seq in self._named:
                self._act(one)

    def _goes_on(self, seq: int, now: int) -> None:
        was = self._named.pop(seq, None)
        if was is not None:
            about = {"was": STALLED, "seconds": (now - was.since_ms) // 1000}
            self._testify(Sighting(WENT_ON, about, was.task_id, was.number))

    def _name(self, one: Long, stalled: Stalled, now: int) -> None:
        evidence = self._evidence(one)
        found = one.stack or not one.why_not
        where = stack.where(evidence["stack"]) if found else ""
        words = sentence(stalled, where, evidence if found else {})
        words += "" if found else ": nothing in its worker's process runs its body, and no outcome came"
        since = now - one.age + stalled.since
        self._named[one.seq] = Diagnosis(STALLED, words, since, evidence, one.task_id, one.number)
        action = one.on_stalled if not one.why_not else "warn"
        about = {"sentence": words, "action": action, "cannot_stop": one.why_not, **evidence}
        self._testify(Sighting(STALLED, about, one.task_id, one.number))
        self._tell((wire.LOG, "warning", f"{one.name}[{one.task_id}] is stalled: {words}"))

    def _evidence(self, one: Long) -> dict[str, Any]:
        """What its process does, over a moment, and where it stands."""
        began, before = time.monotonic(), kernel_says(one.pid)
        text = one.stack or self._stacks.of(self._process(one.pid))
        time.sleep(max(0.0, began + CPU_SECONDS - time.monotonic()))
        after = kernel_says(one.pid)
        told: dict[str, Any] = {"pid": one.pid, "runs_for_ms": one.age, **after, "stack": text}
        if "cpu_ms" in before and "cpu_ms" in after:
            spent = after["cpu_ms"] - before["cpu_ms"]
            told["cpu_share"] = round(spent / (time.monotonic() - began) / 1000, 2)
        return told

    def _act(self, one: Long) -> None:
        """By its fence: the parent looks whether its process still runs this very attempt."""
        if one.on_stalled == "warn" or one.why_not or not self._may_act():
            return
        why = self._named[one.seq].sentence
        if one.on_stalled == "stop_and_resend":
            self._tell((wire.ORDERS, [(one.seq, one.number, f"stalled: {why}", True)]))
        elif one.seq not in self._stopped:
            self._stopped.add(one.seq)
            self._stop(Stop(one.task_id, one.number, f"stalled: {why}"))
