"""What is seen of the worker, for its sign, its heartbeats and those who watch over it."""

from __future__ import annotations

import os
from typing import Any

from crisper.core.model import Pulse
from crisper.engine.sign import Sign
from crisper.engine.wedged import Loop
from crisper.recorder import wire
from crisper.recorder.desk import monotonic_ms
from crisper.recorder.hearing import Hearing
from crisper.recorder.stacks import Stacks
from crisper.recorder.watch import WatchThread
from crisper.recorder.watch_attempts import AttemptWatch
from crisper.recorder.witness import Process, look_at, process_start


class Observing(Hearing):
    """Looks, from whatever thread asks."""

    def _look_at_processes(self) -> None:
        """Once a second: their memory, and whether one is gone whose parent believes it busy."""
        now = monotonic_ms()
        self._oom.look(now)
        unnoticed = self._running.look(now, look_at, self._tick[0] if self._tick else 0)
        if unnoticed:
            self._tell((wire.DEAD, [tuple(one) for one in unnoticed]))

    def _watch_over(self, parent: Process, hello: dict[str, Any]) -> WatchThread:
        stacks = Stacks(wire.STACKS_FD, hello["stack_signal"])
        attempts = AttemptWatch(
            stacks,
            parent,
            long=lambda: self._long,
            quiet=self._running.quiet,
            runs=self._running.runs,
            process=lambda pid: self._children.get(pid, parent),
            stop=self._stops.append,
            may_act=self._may_act,
            testify=self._testimony.append,
            tell=self._tell,
        )
        return WatchThread(
            hello,
            parent,
            stacks,
            attempts,
            loop=self._loop,
            silent=lambda: self._silent,
            may_act=self._may_act,
            testify=self._testimony.append,
            tell=self._tell,
        )

    def _loop(self) -> tuple[Loop, str]:
        """How the parent's loop stands, and its stack if it sent one. From the watching thread."""
        tick = self._tick
        ticked = tick[0] if tick else 0
        return Loop(monotonic_ms(), ticked, self._stood_at, self._stands), self._stack

    def _may_act(self) -> bool:
        """Whether the incarnation holds its lease: who is fenced ends nothing. From any thread."""
        pulse = self._pulse
        return pulse is not None and pulse.trusted()

    def _trouble_with_journal(self, sentence: str) -> None:
        self._tell((wire.LOG, "error", sentence))

    def _trouble_with_sign(self, sentence: str) -> None:
        self._tell((wire.LOG, "warning", sentence))

    def _look(self) -> Sign | None:
        """The worker as it is now; None while it is nobody. From the sign's thread."""
        hello, recording, tick = self._hello, self._recording, self._tick
        if not hello:
            return None
        one, where = hello["incarnation"], ""
        if recording is not None and not self._paused:
            where = "registry" if self._circuit.closed else "journal"
        return Sign(
            worker=hello["nodename"],
            pid=one["pid"],
            pid_start=one["pid_start"],
            pid_namespace=one["pid_namespace"],
            at=monotonic_ms(),
            turned=self._turned_ms,
            ticked=tick[0] if tick else self._began_ms,
            stands=self._stands,
            stood_at=self._stood_at,
            records=where,
            consumes=bool(tick and tick[1].get("consuming")),
            why=self._paused or "",
        )

    def _beating(self) -> Pulse:
        tick = self._tick
        age = monotonic_ms() - tick[0] if tick else None
        detail = dict(tick[1]) if tick else {}
        if self._recording is not None and self._recording.backlog:
            detail["journal"] = self._recording.state.journal_bytes
        if self._watch is not None and (named := self._watch.named()):
            detail["ails"] = [one.told(monotonic_ms()) for one in named]
        start = process_start(os.getpid()) or 0
        return Pulse(os.getpid(), start, age, detail, self._running.told(monotonic_ms()))

    def _end_sign(self) -> None:
        if self._watch is not None:
            self._watch.stop()
        if self._sign is not None:
            self._sign.end()
