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
from crisper.recorder.witness import Process, is_stopped

#: A parent that runs such attempts inside itself speaks of them every second.
SPEAKS_MS = 3000
#: Between two stacks of one that says nothing and runs no body.
STACK_EVERY_MS = 5000
LOCKED = "a body keeps the interpreter lock of its worker's process"
#: Between two looks at the CPU time of a process.
CPU_SECONDS = 0.3
#: Attempts that are named in one look: each takes a moment.
AT_ONCE = 8
#: Of those that a heartbeat carries.
MOST_TOLD = 20


def longer(known: tuple[Any, ...], said: tuple[Any, ...]) -> tuple[Any, ...]:
    """What the parent says is all there is, or one more, which has just begun."""
    kind, at, told, *one_more = said
    if not one_more or not known:
        return kind, at, told
    known[2].extend(tuple(Long(*plain)._replace(age=known[1] - at)) for plain in told)
    return known


class AttemptWatch:
    """Owned by the watching thread. `long` says what the parent said last, `quiet` how long an attempt has
    said nothing of its progress, `runs` whether its end is not on record, `process` gives that of a pid."""

    def __init__(
        self,
        stacks: Stacks,
        parent: Process,
        *,
        long: Callable[[], tuple[Any, ...]],
        quiet: Callable[[int, int], int | None],
        runs: Callable[[int], bool],
        process: Callable[[int], Process],
        stop: Callable[[Stop], None],
        may_act: Callable[[], bool],
        testify: Callable[[Sighting], None],
        tell: Callable[[tuple[Any, ...]], None],
    ) -> None:
        self._stacks, self._long, self._quiet, self._process = stacks, long, quiet, process
        self._stop, self._may_act, self._testify, self._tell = stop, may_act, testify, tell
        self._parent, self._runs, self._stack_at = parent, runs, 0
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
        at, long = said[1], {one.seq: one for one in (Long(*plain) for plain in list(said[2]))}
        if monotonic_ms() - at > SPEAKS_MS:
            at, long = self._by_our_clock(at, long, monotonic_ms())
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

    def _by_our_clock(self, at: int, long: dict[int, Long], now: int) -> tuple[int, dict[int, Long]]:
        """Its parent says nothing any more. Of what it runs inside itself, a body that keeps the interpreter
        lock keeps every thread: what it said last has grown older, and its stack shows a body."""
        inside = [one for one in long.values() if one.pid == self._parent.pid and self._runs(one.seq)]
        if not inside or is_stopped(self._parent.pid):
            return at, long
        older = [one._replace(age=one.age + now - at, why_not=LOCKED, stack="") for one in inside]
        new = [one for one in older if one.seq not in self._named and judge(one, self._quiet(one.seq, now))]
        text = self._stack_of_a_body(now) if new else ""
        told = {one.seq: one for one in older if one not in new}
        return now, told | {one.seq: one._replace(stack=text) for one in new if text}

    def _stack_of_a_body(self, now: int) -> str:
        """Of the parent; empty if it runs none, and then not looked for again at once."""
        if now < self._stack_at:
            return ""
        text = self._stacks.of(self._parent)
        self._stack_at = now + STACK_EVERY_MS
        return text if stack.holds_a_body(text) else ""

    def _goes_on(self, seq: int, now: int) -> None:
        was = self._named.pop(seq, None)
        if was is not None:
            about = {"was": STALLED, "seconds": (now - was.since_ms) // 1000}
            self._testify(Sighting(WENT_ON, about, was.task_id, was.number))

    def _name(self, one: Long, stalled: Stalled, now: int) -> None:
        evidence = self._evidence(one)
        found = one.stack or not one.why_not
        alone = one.why_not != LOCKED or stack.bodies(evidence["stack"]) == 1
        where = stack.where(evidence["stack"]) if found and alone else ""
        words = sentence(stalled, where, evidence if found else {})
        words += "" if found else ": nothing in its worker's process runs its body, and no outcome came"
        words += f", and {LOCKED}" if one.why_not == LOCKED else ""
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


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000
