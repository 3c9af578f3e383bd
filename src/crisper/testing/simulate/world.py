"""Virtual time, and who lives in it: one heap of events, popped in order by one thread.

A process that waits (a slow call, a pause between two steps) lets the others go on
inside its own call: `World.meanwhile` runs the events of the time that passes.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any

from crisper.testing.simulate.history import History

#: Calls that wait within calls that wait; deeper ones do not wait.
DEPTH = 5


class Killed(BaseException):
    """The process that runs this code is dead. No `except Exception` of the real code takes it."""


class Process:
    """Alive, paused, or dead for ever."""

    __slots__ = ("alive", "name", "on_death", "paused", "threads")

    def __init__(self, name: str) -> None:
        self.name, self.alive, self.paused = name, True, False
        self.threads: list[Thread] = []
        self.on_death: list[Callable[[], None]] = []


class Thread:
    """Does one thing at a time; what comes meanwhile waits."""

    __slots__ = ("busy", "name", "process", "waiting")

    def __init__(self, process: Process, name: str) -> None:
        self.process, self.name, self.busy = process, name, False
        self.waiting: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        process.threads.append(self)


class World:
    """Time in milliseconds. All chance is `rng`."""

    def __init__(self, seed: int) -> None:
        self.seed, self.rng, self.now, self.over = seed, Random(seed), 0, False
        self.history = History(self)
        self.healed = False  # nothing breaks any more
        self.crash_at_step = 0.0  # the chance that a process dies at one of its steps
        self.serial = 0
        self._heap: list[tuple[int, int, Thread | None, Callable[..., object], tuple[Any, ...]]] = []
        self._count = self._depth = 0

    # -- time -----------------------------------------------------------------

    def after(self, ms: int, thread: Thread | None, call: Callable[..., object], *args: Any) -> None:
        """Call it then, if its process still lives; later if that is paused or its thread busy."""
        self._count += 1
        heappush(self._heap, (self.now + ms, self._count, thread, call, args))

    def run(self, until: int) -> None:
        heap = self._heap
        while heap and heap[0][0] <= until and not self.over:
            at, _, thread, call, args = heappop(heap)
            if at > self.now:
                self.now = at
            if thread is not None:
                process = thread.process
                if not process.alive:
                    continue
                if thread.busy or process.paused:
                    thread.waiting.append((call, args))
                    continue
            try:
                call(*args)
            except Killed:
                continue
        self.now = max(self.now, until)

    def meanwhile(self, thread: Thread, ms: int) -> None:
        """The thread waits, and the others go on. Raises `Killed` if it does not live to see the end."""
        if self._depth < DEPTH and not self.over:
            thread.busy, self._depth = True, self._depth + 1
            try:
                self.run(self.now + ms)
                while thread.process.alive and thread.process.paused and not self.over:
                    self.run(self.now + 20)
            finally:
                thread.busy, self._depth = False, self._depth - 1
                self._go_on(thread)
        if self.over or not thread.process.alive:
            raise Killed

    def _go_on(self, thread: Thread) -> None:
        waiting, thread.waiting = thread.waiting, []
        for call, args in waiting:
            self.after(0, thread, call, *args)

    # -- life -----------------------------------------------------------------

    def kill(self, process: Process, why: str = "is killed") -> None:
        if not process.alive:
            return
        process.alive = False
        self.history.tell(process.name, "dies", why=why)
        for call in process.on_death:
            call()

    def pause(self, process: Process) -> None:
        if process.alive and not process.paused:
            process.paused = True
            self.history.tell(process.name, "stands still")

    def resume(self, process: Process) -> None:
        if process.paused:
            process.paused = False
            if process.alive:
                self.history.tell(process.name, "goes on")
            for thread in process.threads:
                self._go_on(thread)

    def risk(self, process: Process, where: str) -> None:
        """A step at which the process may die. Raises `Killed` if it does."""
        if self.crash_at_step and not self.healed and self.rng.random() < self.crash_at_step:
            self.kill(process, where)
        if not process.alive:
            raise Killed

    # -- chance ---------------------------------------------------------------

    def soon(self) -> int:
        """How long a hop takes: mostly no time at all."""
        roll = self.rng.random()
        return int(roll * 8) if roll < 0.9 else int(roll * roll * 40)

    def serially(self) -> int:
        self.serial += 1
        return self.serial
