"""The registry: the memory store, watched; and the lines to it, which may fail in every way."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Sequence
from typing import Any

from crisper.core.model import Answer, Attempt, Checkpoint, Claim, Fence, Finish, Record, Recovery
from crisper.core.states import State, VerdictKind, WorkerState
from crisper.errors import CrisperError, RegistryUnreachable
from crisper.store.base import Closed
from crisper.store.memory import MemoryStore
from crisper.testing.simulate import laws
from crisper.testing.simulate.place import Host
from crisper.testing.simulate.plan import Plan
from crisper.testing.simulate.world import Killed, Thread, World


class Registry(MemoryStore):
    """Every change passes the laws at the moment of its commit."""

    def __init__(self, world: World) -> None:
        self.world, self.away, self.step_ms = world, False, 0
        self.changes = 0
        self.renewed: dict[str, int] = {}  # true time of the last renewal's commit, by incarnation
        self.truth: dict[str, Any] = {}  # the life behind each incarnation
        self.observers: dict[str, Host] = {}  # where each sweeper observes
        self.closes: dict[str, str] = {}  # whoever closed, or is closing, a worker's attempts
        self.saved: dict[str, list[tuple[int, str]]] = {}  # checkpoints with their attempts, as committed
        self.given: dict[tuple[str, int], set[str]] = {}  # what each attempt was told to go on from
        self.doubted: set[tuple[str, int]] = set()  # records whose commit's reply was lost
        super().__init__(clock=lambda: 10**9 + world.now + self.step_ms)

    def enroll(self, incarnation: Any) -> Fence:
        self.renewed.setdefault(incarnation.id, self.world.now)
        return super().enroll(incarnation)

    def renew(self, fence: Fence, pulse: Any) -> bool:
        renewed = super().renew(fence, pulse)
        if renewed:
            self.renewed[fence.incarnation] = self.world.now
        return renewed

    def declare_lost(self, id: str, counter: int, *, by: str, evidence: dict[str, Any]) -> bool:
        declared = super().declare_lost(id, counter, by=by, evidence=evidence)
        if not declared:
            alive = self._workers[id].state is WorkerState.ALIVE
            self.world.history.seen("a heartbeat before a verdict" if alive else "two sweepers at one worker")
        return declared

    def close_lost(self, id: str, *, by: str, limit: int = 500) -> Closed:
        worker = self._workers.get(id)
        if worker is None or not worker.cleared:
            self.closes[id] = by
        elif by != self.closes.get(id) and {by, self.closes.get(id)} <= self.observers.keys():
            self.world.history.seen("two sweepers at one worker")
        return super().close_lost(id, by=by, limit=limit)

    def record(
        self, fence: Fence, records: Sequence[Record], *, renewing: Collection[str] | None = None
    ) -> list[Answer]:
        worker = self._workers.get(fence.incarnation)
        holds = worker is not None and (worker.state, worker.generation) == (
            WorkerState.ALIVE,
            fence.generation,
        )
        before = self.changes
        try:
            answers = super().record(fence, records, renewing=renewing)
        finally:
            if not holds and self.changes != before:
                self.world.history.broken("I4", f"{fence} is over, and changed an attempt")
        if self.doubted:
            found = {(fence.incarnation, answer.seq) for answer in answers} & self.doubted
            if found:
                self.doubted -= found
                self.world.history.seen("an unknown commit that was found committed")
        for answer in answers:
            if answer.kind == "parked":
                self.world.history.seen("a parked delivery")
            elif answer.kind == "overlap":
                self.world.history.seen("an overlap on record")
        return answers

    # -- watched ---------------------------------------------------------------

    def _set(self, attempt: Attempt, **changes: Any) -> None:
        self.changes += 1
        laws.moves(self, attempt, changes)
        super()._set(attempt, **changes)

    def _move(self, recovery: Recovery, **changes: Any) -> Recovery:
        laws.recovery_moves(self, recovery, changes)
        return super()._move(recovery, **changes)

    def _end(self, id: str, state: WorkerState, by: str, evidence: dict[str, Any]) -> bool:
        laws.ends(self, id, state, by, evidence)
        self.world.history.tell(by, f"declares {state}", incarnation=id, how=evidence.get("how", ""))
        return super()._end(id, state, by, evidence)

    def _grant(self, me: str, claim: Claim, latest: Attempt | None) -> int:
        laws.grants(self, me, claim)
        self.changes += 1
        number = super()._grant(me, claim, latest)
        self.world.history.tell("gate", "grants", message=claim.message_id, number=number, to=me)
        return number

    def _refuse(self, me: str, claim: Claim, reason: str, latest: Attempt) -> Answer:
        laws.refuses(self, claim)
        if claim.redelivered:
            self.world.history.seen("a refused redelivery")
        self.world.history.tell("gate", "refuses", message=claim.message_id, to=me, why=reason)
        return super()._refuse(me, claim, reason, latest)

    def _lose(self, attempt: Attempt, *how: Any) -> None:
        laws.loses(self, attempt)
        super()._lose(attempt, *how)
        self.world.history.tell(how[3], "closes as lost", message=attempt.message_id, number=attempt.number)

    def _granted(self, claim: Claim, number: int) -> Answer:
        answer = super()._granted(claim, number)
        laws.goes_on(self, claim, number, answer.checkpoint)
        self.given.setdefault((claim.task_id, number), set()).add(answer.checkpoint)
        return answer

    def _save(self, me: str, made: Checkpoint) -> Answer:
        one = self.attempt_of(made.task_id, [me], made.claim_seq)
        answer = super()._save(me, made)
        if answer.kind == "kept":
            laws.saves(self, me, made, one)
            self.saved.setdefault(made.task_id, []).append((one.number if one else 0, made.data))
        return answer

    def _late(self, me: str, finish: Finish, why: str) -> None:
        self.world.history.seen("a late finish")
        super()._late(me, finish, why)

    def decide(
        self,
        recovery: Recovery,
        verdict: VerdictKind,
        reason: str,
        evidence: dict[str, Any],
        *,
        by: str,
        due_in_ms: int | None = None,
    ) -> Recovery | None:
        decided = super().decide(recovery, verdict, reason, evidence, by=by, due_in_ms=due_in_ms)
        if decided is not None:
            laws.decides(self, decided)
            self.world.history.tell(by, f"decides {verdict}", message=recovery.message_id,
                                    number=recovery.number, why=reason)  # fmt: skip
            if verdict is VerdictKind.QUARANTINE:
                self.world.history.seen("a quarantine")
        return decided

    # -- questions ---------------------------------------------------------------

    def of_message(self, task_id: str, message_id: str) -> list[Attempt]:
        return [a for a in self._attempts.get(task_id, ()) if a.message_id == message_id]

    def recovery_of(self, attempt: Attempt) -> Recovery | None:
        return self._recoveries.get((attempt.task_id, attempt.number))

    def keeps(self, attempt: Attempt) -> bool:
        return self._kept(attempt.task_id, attempt.number)

    def attempt_of(self, task_id: str, incarnations: Collection[str], seq: int) -> Attempt | None:
        for attempt in self._attempts.get(task_id, ()):
            if attempt.seq == seq and attempt.incarnation in incarnations:
                return attempt
        return None

    def is_over(self, incarnation: str) -> bool:
        worker = self._workers.get(incarnation)
        return worker is not None and worker.state is not WorkerState.ALIVE

    def states(self, task_id: str) -> list[State]:
        return [attempt.state for attempt in self._attempts.get(task_id, ())]


#: Where a sweeper may stand still, or die.
BETWEEN = {
    "declare_lost": "between looking and declaring",
    "close_lost": "between declaring and closing",
}


class Line:
    """One connection to the registry, of one thread on one host. It has every verb of a store."""

    def __init__(self, world: World, registry: Registry, thread: Thread, host: Host, plan: Plan) -> None:
        self._world, self._registry, self._thread, self._host = world, registry, thread, host
        self._unknown, self._refused = plan.unknown, plan.unknown + plan.refused
        self._slow = self._refused + plan.slow
        self._pauses = plan.pauses

    def __getattr__(self, verb: str) -> Any:
        if verb.startswith("_"):
            raise AttributeError(verb)
        call = functools.partial(self._call, verb, getattr(self._registry, verb))
        setattr(self, verb, call)
        return call

    def close(self) -> None: ...

    def abort(self) -> None: ...

    def _call(self, verb: str, do: Any, *args: Any, **kwargs: Any) -> Any:
        world = self._world
        if verb in BETWEEN and not world.healed and world.rng.random() < self._pauses:
            world.risk(self._thread.process, BETWEEN[verb])
            world.meanwhile(self._thread, world.rng.randrange(5, 2_500))
        if self._registry.away or self._host.cut:
            self._fail(verb)
        if world.healed or not self._slow:
            return do(*args, **kwargs)
        roll = world.rng.random()
        if roll >= self._slow:
            return do(*args, **kwargs)
        if roll < self._unknown:
            return self._lose_reply(verb, do, args, kwargs)
        if roll < self._refused:
            world.history.tell(self._thread.name, "cannot reach the registry", verb=verb)
            raise RegistryUnreachable("the connection broke before the commit")
        return self._slowly(verb, do, args, kwargs)

    def _fail(self, verb: str) -> None:
        self._world.meanwhile(self._thread, self._world.rng.choice((2, 40, 400)))
        raise RegistryUnreachable(f"no answer to {verb}")

    def _lose_reply(self, verb: str, do: Any, args: Any, kwargs: Any) -> None:
        do(*args, **kwargs)
        self._world.history.tell(self._thread.name, "never hears of its commit", verb=verb)
        if verb == "record":
            fence, records = args
            self._registry.doubted |= {(fence.incarnation, r.seq) for r in records if hasattr(r, "seq")}
        raise RegistryUnreachable("the reply was lost")

    def _slowly(self, verb: str, do: Any, args: Any, kwargs: Any) -> Any:
        """Some calls take long before their commit, some behind it; who dies meanwhile may have said all that
        the registry needs to commit."""
        early, ms = self._world.rng.random() < 0.5, self._world.rng.randrange(20, 1_200)
        if early:
            try:
                self._world.meanwhile(self._thread, ms)
            except Killed:
                if not (self._registry.away or self._host.cut) and self._world.rng.random() < 0.5:
                    self._world.history.seen("a commit of who had died")
                    with contextlib.suppress(CrisperError):
                        do(*args, **kwargs)
                raise
            if self._registry.away or self._host.cut:
                self._fail(verb)
        answer = do(*args, **kwargs)
        if not early:
            self._world.meanwhile(self._thread, ms)
        return answer
