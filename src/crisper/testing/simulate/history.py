"""What happened, in order; and what the tasks' bodies did, which is the truth."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from crisper.core.states import State

if TYPE_CHECKING:
    from crisper.testing.simulate.broker import Message
    from crisper.testing.simulate.world import World


class Happening(NamedTuple):
    """One event: when in virtual milliseconds, who, what, and about which ids."""

    at: int
    actor: str
    kind: str
    ids: dict[str, Any]

    def as_json(self) -> str:
        return json.dumps({"at": self.at, "actor": self.actor, "kind": self.kind, **self.ids}, default=str)

    def sentence(self) -> str:
        told = " ".join(f"{name}={value}" for name, value in self.ids.items())
        return f"{self.at / 1000:9.3f}  {self.actor:<24} {self.kind} {told}"


class Body:
    """One run of a task's body, as the body itself knows it."""

    def __init__(self, number: int, message: Message, process: str, incarnation: str, seq: int) -> None:
        self.number, self.message = number, message
        self.process, self.incarnation, self.seq = process, incarnation, seq
        self.provisional = False  # it ran by the journal's rules
        self.began = 0
        self.ended: int | None = None  # or it was killed
        self.outcome: State | None = None  # None: it was killed
        self.killed = False
        self.retried = False  # it has published its retry


class History:
    """Events, bodies, violations, and what did occur at least once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.happenings: list[Happening] = []
        self.bodies: dict[str, list[Body]] = {}  # by message
        self.of_task: dict[str, list[Body]] = {}
        self.sometimes: Counter[str] = Counter()
        self.violations: list[str] = []

    def tell(self, actor: str, kind: str, **ids: Any) -> None:
        self.happenings.append(Happening(self._world.now, actor, kind, ids))

    def seen(self, what: str) -> None:
        """Something that schedules must show sometimes."""
        self.sometimes[what] += 1

    def broken(self, law: str, sentence: str) -> None:
        """A law does not hold: the schedule ends here."""
        self.violations.append(f"{law}: {sentence}")
        self.tell("checker", "VIOLATION", law=law, what=sentence)
        self._world.over = True

    def begins(self, body: Body) -> None:
        body.began = self._world.now
        self.bodies.setdefault(body.message.id, []).append(body)
        self.of_task.setdefault(body.message.task.id, []).append(body)

    def digest(self) -> str:
        """The same for the same history."""
        whole = "\n".join(happening.as_json() for happening in self.happenings)
        return hashlib.sha256(whole.encode()).hexdigest()
