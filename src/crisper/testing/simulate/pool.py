"""The pool: one process for each body that runs."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from crisper.celery.held import Stage
from crisper.core.states import State
from crisper.testing.simulate import truths
from crisper.testing.simulate.broker import Away, Message
from crisper.testing.simulate.held import Held
from crisper.testing.simulate.recorder import word_of
from crisper.testing.simulate.saving import Saver
from crisper.testing.simulate.world import Process, Thread

if TYPE_CHECKING:
    from crisper.testing.simulate.history import Body
    from crisper.testing.simulate.parent import Parent

_STORED = {State.SUCCEEDED: "SUCCESS", State.FAILED: "FAILURE", State.RETRIED: "RETRY"}


class Pool:
    """Of one parent. A child goes on while its parent stands still, and dies when that dies."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._children: dict[int, tuple[Held, Process]] = {}
        self._pids: dict[int, int] = {}  # of the same
        self._unnoticed: set[int] = set()  # of those whose end nobody will tell us

    def running(self) -> int:
        return len(self._children)

    def running_held(self) -> list[Held]:
        return [held for held, _ in self._children.values()]

    def run(self, held: Held) -> None:
        parent = self._parent
        body = parent.body_of(held)
        child = parent.host.process(f"{parent.life.name}/child{body.number}")
        parent.life.children = [one for one in parent.life.children if one.alive]
        parent.life.children.append(child)
        self._children[body.number] = held, child
        pid = self._pids[body.number] = parent.host.new_pid(child)
        child.on_death.append(lambda: self._died(held, body))
        thread = Thread(child, child.name)
        world = parent.world
        world.after(world.soon(), thread, self._begin, held, body, thread)
        world.after(world.soon(), parent.loop, self._accepted, held, body, pid)

    def _accepted(self, held: Held, body: Body, pid: int) -> None:
        """May come after the body began, and after it ended."""
        self._parent.accepted(held, pid)

    def _begin(self, held: Held, body: Body, thread: Thread) -> None:
        world, task = self._parent.world, held.task
        truths.begins(self._parent, held, body)
        truths.goes_on(self._parent, held, body)
        world.history.begins(body)
        world.history.tell(thread.name, "begins", message=held.message_id, seq=held.seq)
        if self._parent.site.more and task.id in self._parent.site.more.saves:
            Saver(self._parent, held, body, thread).start()
        dies = sum(one.outcome is None and one is not body for one in world.history.of_task[task.id])
        if dies < task.poison and held.message.retries == 0:
            world.after(min(task.runtime, 50), thread, self._poisoned, thread)
        else:
            world.after(task.runtime, thread, self._end, held, body, thread)

    def _poisoned(self, thread: Thread) -> None:
        self._parent.world.kill(thread.process, "is killed by its task")

    def _end(self, held: Held, body: Body, thread: Thread) -> None:
        """The body returns: what comes after it can each be the last."""
        parent, world, task = self._parent, self._parent.world, held.task
        state = State.FAILED if task.fails else State.SUCCEEDED
        if held.message.retries < task.retries:
            state = State.RETRIED
            try:
                following = Message(task, held.message.retries + 1)
                known = parent.site.broker.messages.get(following.id)
                parent.site.broker.publish(known or following, thread.name, copy=known is not None)
            except Away:
                world.after(200, thread, self._end, held, body, thread)
                return
            body.retried = True
            world.risk(thread.process, "after it published its retry")
        body.ended, body.outcome = world.now, state
        world.history.tell(thread.name, f"ends {state}", message=held.message_id)
        parent.site.backend.states[task.id] = _STORED[state]
        world.risk(thread.process, "after its result is stored")
        world.after(world.soon(), thread, self._say, held, body, thread, state)

    def _say(self, held: Held, body: Body, thread: Thread, state: State) -> None:
        parent, world = self._parent, self._parent.world
        parent.words.append(word_of(held.seq, held.task.id, state, held.task.runtime))
        recorder = parent.life.recorder
        if recorder is not None:
            recorder.wake(world.soon())
        world.risk(thread.process, "after its own word")
        world.after(world.soon(), parent.loop, self._ended, held, body, thread.process, state)

    def _ended(self, held: Held, body: Body, child: Process, state: State) -> None:
        if self._children.pop(body.number, None) is not None:
            child.on_death.clear()
            child.alive = False
            self._parent.body_ended(held, state)

    def _died(self, held: Held, body: Body) -> None:
        parent = self._parent
        body.killed = True
        if parent.process.alive and body.number not in self._unnoticed:
            parent.world.after(parent.world.soon(), parent.loop, self._buried, held, body)

    def _buried(self, held: Held, body: Body) -> None:
        _, child = self._children.pop(body.number, (held, None))
        if child is not None:
            if child.alive:
                self._parent.world.history.broken("I1", f"{child.name} runs, and is taken for dead")
            self._parent.child_died(held, counted=not self._parent.cold)

    def bury(self, held: Held, pid: int) -> None:
        """As `crisper.celery.pool_guard.PoolGuard.bury`: its recorder says that this process is gone."""
        history = self._parent.world.history
        for number, (other, _) in list(self._children.items()):
            if other is held and self._pids[number] == pid and held.body is not None:
                if self.is_nobody(pid):
                    history.seen("a process that died unnoticed")
                    history.tell(self._parent.life.name, "learns of a death", message=held.message_id)
                    self._buried(held, held.body)
                else:
                    history.seen("a process that was taken for dead, and lives")

    def is_nobody(self, pid: int) -> bool:
        """What waitid says."""
        return not self._parent.host.pids[pid].alive

    def lose_one_unnoticed(self, rng: Random) -> None:
        alive = [(number, child) for number, (_, child) in self._children.items() if child.alive]
        if alive:
            number, child = rng.choice(alive)
            self._unnoticed.add(number)
            self._parent.world.kill(child, "dies, and its pool is not told")

    def stop(self, held: Held) -> None:
        """A fenced body, unless it has ended."""
        for number, (other, child) in list(self._children.items()):
            if other is held and held.stage is Stage.DISPATCHED:
                if child.alive:
                    self._parent.world.kill(child, "is stopped: its attempt is fenced")
                elif number in self._unnoticed and held.body is not None:
                    self._parent.world.history.seen("a fenced process that died unnoticed")
                    self._buried(held, held.body)

    def kill_all(self) -> None:
        for _, child in list(self._children.values()):
            self._parent.world.kill(child, "is ended by a cold shutdown")

    def kill_one(self) -> None:
        alive = [child for _, child in self._children.values() if child.alive]
        if alive:
            self._parent.world.kill(self._parent.world.rng.choice(alive))
