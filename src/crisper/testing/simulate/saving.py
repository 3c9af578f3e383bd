"""The checkpoints of a body: said as its words are, and said again until it knows where it waits for them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from crisper.testing.simulate import truths
from crisper.testing.simulate.world import Thread

if TYPE_CHECKING:
    from crisper.testing.simulate.held import Held
    from crisper.testing.simulate.history import Body
    from crisper.testing.simulate.parent import Parent
    from crisper.testing.simulate.recorder import Recorder

#: Kept by one body; milliseconds until a child looks whether the recorder that it waits for is still there.
STEPS, AGAIN_MS = 4, 300


class Saving:
    """One checkpoint on its way: a datagram, and the socket on which its answer comes."""

    def __init__(self, saver: Saver, step: int) -> None:
        self._saver = saver
        self.claim_seq, self.task_id = saver.body.seq, saver.body.message.task.id
        steps = [f'"{self.task_id} body {saver.body.number} step {n}"' for n in range(step, STEPS)]
        self.data, self.as_well = steps[0], steps
        self.waits = saver.waits
        self.taken_by: Recorder | None = None
        self.is_dropped = self.is_answered = False

    @property
    def is_cut_off(self) -> bool:
        """Whoever had the other end of its socket is gone, or has closed it."""
        return self.is_dropped or (self.taken_by is not None and not self.taken_by.process.alive)

    def answer(self, word: str) -> None:
        """It is safe there, or `late`. Called by the writer."""
        self.is_answered = True
        self._saver.is_told(self, word)


class Saver:
    """Of one body. A checkpoint that it waits for holds up the next one; that it holds up its end as well
    no law could see."""

    def __init__(self, parent: Parent, held: Held, body: Body, thread: Thread) -> None:
        self._parent, self._held, self._thread, self.body = parent, held, thread, body
        more = parent.site.more
        self._rng = more.rng if more else parent.world.rng
        self.waits = bool(more and more.saves[held.task.id])
        self._held_up: deque[int] = deque()
        self._waits_for: Saving | None = None

    def start(self) -> None:
        """Spread over the run; the last one may come together with its end."""
        runtime = self._held.task.runtime
        for step, at in enumerate(sorted(self._rng.randrange(runtime + 1) for _ in range(STEPS))):
            self._parent.world.after(at, self._thread, self._save, step)

    def _save(self, step: int) -> None:
        if self._waits_for is not None:
            self._held_up.append(step)
        elif self.body.ended is None:
            made = Saving(self, step)
            self._waits_for = made if made.waits else None
            self._send(made)

    def _send(self, made: Saving) -> None:
        made.taken_by, made.is_dropped = None, False
        self._parent.words.append(made)
        recorder = self._parent.life.recorder
        if recorder is not None:
            recorder.wake(self._rng.randrange(4))
        if made.waits:
            self._parent.world.after(AGAIN_MS, self._thread, self._wait, made)

    def _wait(self, made: Saving) -> None:
        if made.is_answered:
            return
        if made.is_cut_off:
            self._send(made)
        else:
            self._parent.world.after(AGAIN_MS, self._thread, self._wait, made)

    def is_told(self, made: Saving, word: str) -> None:
        history = self._parent.world.history
        history.tell(self._thread.name, "is told of its checkpoint", where=word, data=made.data)
        if word == "late":
            history.seen("a checkpoint that came too late")
        else:
            history.seen(f"a checkpoint that is safe in the {word}")
            truths.is_safe(self._parent, made, word)
        self._waits_for = None
        if self._held_up:
            self._parent.world.after(0, self._thread, self._save, self._held_up.popleft())
