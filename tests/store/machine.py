"""Every verb of a store, in any order, beside the model."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from crisper.core.gate import UNDECIDED_MS
from crisper.core.model import (
    ChildLost,
    Fence,
    Finish,
    Look,
    Message,
    Note,
    Published,
    Pulse,
    Record,
    Recovery,
    Start,
)
from crisper.core.states import CLOSED, UNDER_WAY, OnLost, State, VerdictKind, WorkerState, may_decide
from crisper.core.verdict import DEAD_LETTERED, Judgement, Verdict
from crisper.store.at_once import LARGEST_BODY
from tests.store.acting import KEPT, TOO_LARGE, claim, incarnation
from tests.store.beside import TASKS, WORKERS, Beside

MESSAGES = ("m1", "m2")
OUTCOMES = sorted(CLOSED - {State.LOST})
#: Of its size, because it goes another way to PostgreSQL.
LARGE = Message(b"x" * (LARGEST_BODY + 1), '{"headers": {}}', LARGEST_BODY + 1)

workers, tasks = st.sampled_from(sorted(WORKERS)), st.sampled_from(TASKS)
scopes = st.sampled_from(sorted({*WORKERS.values()}))
ages = st.sampled_from((0, 0, 7, UNDECIDED_MS, 61_000))
asked = st.tuples(tasks, st.sampled_from(MESSAGES), ages, *[st.booleans()] * 4)


class Machine(Beside):
    @initialize(past=st.tuples(*[st.sampled_from(("", "claimed", "running", "failed", "lost", "held"))] * 2))
    def a_past(self, past: tuple[str, ...]) -> None:
        """Much must have happened before most verbs find something to do."""
        for task, state in zip(TASKS, past, strict=True):
            if state:
                self.time_passes(1)
                self.goes_as_far_as(state, task)

    def goes_as_far_as(self, state: str, task: str) -> None:
        worker = "w1" if task == "a" else "w2"
        one = claim(self.seq(worker), task, "m1", loss_budget=1, on_lost=OnLost.HOLD)
        told: list[Record] = [one] if state == "claimed" else [one, Start(one.seq, task, 99, 100)]
        if state == "failed":
            told.append(Finish(self.seq(worker), one.seq, task, State.FAILED, "said"))
        self.claimed.append((worker, one))
        self.both("record", self.fences[worker], told)
        if state in ("lost", "held"):
            self.is_lost(self.fences[worker].incarnation)
            self.enroll(worker)
        if state == "held":
            [case] = self.both("take_cases", "c1", WORKERS[worker], limit=1)
            self.both("decide", case.recovery, VerdictKind.HOLD, "so", {}, by="c1")

    # -- incarnations ---------------------------------------------------------

    @rule(worker=workers, data=st.data(), journal=st.sampled_from((None, False, True)))
    def lives(self, worker: str, data: st.DataObject, journal: bool | None) -> None:
        """A heartbeat, or its next recorder."""
        fence = self.a_fence(data, worker)
        if journal is not None:
            self.both(
                "renew", fence, Pulse(11, 22, 3, {"journal": journal}, {"1": {"progress": {"done": journal}}})
            )
        else:
            replaced = self.both("replace_recorder", fence)
            if replaced and fence == self.fences[worker]:
                self.past_fences.append(fence)
                self.fences[worker] = replaced

    @rule(worker=workers, data=st.data(), how=st.sampled_from(("swept", "silence", "moved", "seen", "ends")))
    def dies(self, worker: str, data: st.DataObject, how: str) -> None:
        fence = self.a_fence(data, worker)
        if how == "seen":
            self.both("declare_own_loss", fence, evidence={"how": "seen"})
        elif how == "ends":
            self.both("say_goodbye", fence, reason="stop")
        elif how == "swept":
            self.is_lost(fence.incarnation)
        else:
            counter = self.model.worker(fence.incarnation).counter - (how == "moved")
            self.both("declare_lost", fence.incarnation, counter, by="sweeper", evidence={"how": how})

    def is_lost(self, id: str) -> None:
        """Declared, and all that it held closed."""
        self.both("declare_lost", id, self.model.worker(id).counter, by="sweeper", evidence={})
        while self.both("close_lost", id, by="sweeper").more:
            pass

    @rule(worker=workers)
    def enroll(self, worker: str) -> None:
        """A dead worker's next life, or its present one once more, as after a lost answer."""
        life = self.fences[worker].incarnation
        if self.model.worker(life).state is WorkerState.ALIVE:
            self.both("enroll", incarnation(life, scope=WORKERS[worker]))
        else:
            self.past_fences.append(self.fences[worker])
            self.enters(worker, f"{worker}-{self.seq(worker)}")

    @rule(data=st.data(), limit=st.integers(1, 3))
    def close_lost(self, data: st.DataObject, limit: int) -> None:
        self.both("close_lost", self.a_life(data), by="sweeper", limit=limit)

    # -- the way of an attempt ------------------------------------------------

    @rule(
        worker=workers,
        data=st.data(),
        deliveries=st.lists(asked, min_size=1, max_size=3),
        on_lost=st.sampled_from(OnLost),
        renewing=st.none() | st.sets(workers),
        message=st.sampled_from((KEPT, KEPT, KEPT, TOO_LARGE, LARGE)),
        acks_late=st.booleans(),
    )
    def claim(
        self, worker: str, data: st.DataObject, deliveries: list[Any], on_lost: OnLost,
        renewing: set[str] | None, message: Message, acks_late: bool,
    ) -> None:  # fmt: skip
        wanted = [
            claim(
                self.seq(worker), task, id, age_ms=age, redelivered=redelivered, identified=identified,
                dispatched=dispatched, on_lost=on_lost, loss_budget=1, message=message,
                retries=int(id == "m2"), copy=copy, acks_late=acks_late,
            )
            for task, id, age, redelivered, identified, dispatched, copy in deliveries
        ]  # fmt: skip
        fence = self.a_fence(data, worker)
        if fence.incarnation in self.names and self.names[fence.incarnation] == worker:
            self.claimed += [(worker, one) for one in wanted]
            self.both("record", fence, wanted, renewing=renewing and self.lives_of(renewing))

    @rule(worker=workers, task=tasks, id=st.sampled_from(MESSAGES), on_lost=st.sampled_from(OnLost))
    def runs(self, worker: str, task: str, id: str, on_lost: OnLost) -> None:
        """Claimed and accepted by the pool, if the gate lets it."""
        one = claim(self.seq(worker), task, id, on_lost=on_lost, loss_budget=1, redelivered=True)
        self.claimed.append((worker, one))
        told = [one, Start(one.seq, task, 99, 100)]
        self.both("record", self.fences[worker], told, renewing=None)

    def lives_of(self, workers: set[str]) -> set[str]:
        return {self.fences[worker].incarnation for worker in workers}

    @precondition(lambda self: self.claimed)
    @rule(
        data=st.data(),
        kinds=st.lists(
            st.sampled_from(("start", "dispatch", "finish", "finish", "child", "claim", "note")),
            min_size=1,
            max_size=4,
        ),
        state=st.sampled_from(OUTCOMES),
        runtime=st.sampled_from((None, 5)),
        counted=st.booleans(),
        age=ages,
    )
    def go_on(
        self,
        data: st.DataObject,
        kinds: list[str],
        state: State,
        runtime: int | None,
        counted: bool,
        age: int,
    ) -> None:
        """Any records of any claim, sensible or not, in one batch, and sometimes twice."""
        worker, of = data.draw(st.sampled_from(self.claimed[-12:]))
        made = {
            "start": lambda: Start(of.seq, of.task_id, 99, 100, age),
            "dispatch": lambda: Start(of.seq, of.task_id, 0, 0, age),
            "finish": lambda: Finish(self.seq(worker), of.seq, of.task_id, state, "said", runtime, age, 98),
            "child": lambda: ChildLost(self.seq(worker), of.seq, of.task_id, counted, {"signal": 9}, age),
            "claim": lambda: of,
            "note": lambda: Note(self.seq(worker), "adopted", of.task_id, {"n": 1}, age),
        }
        records = [made[kind]() for kind in kinds]
        for _ in range(data.draw(st.sampled_from((1, 1, 2)))):
            self.both("record", self.fences[worker], records, renewing=())

    @rule(
        worker=workers,
        data=st.data(),
        of=asked,
        outcome=st.sampled_from((None, *OUTCOMES)),
        cut=st.integers(0, 4),
    )
    def replay(self, worker: str, data: st.DataObject, of: Any, outcome: State | None, cut: int) -> None:
        """What a journal let run, written by its worker's present life; first only a part of it."""
        task, id, age, redelivered, identified, _, _ = of
        lives = [life for life, name in self.names.items() if name == worker]
        one = claim(
            self.seq(worker), task, id, age_ms=age, redelivered=redelivered, identified=identified,
            dispatched=True, retries=int(id == "m2"), loss_budget=1,
            provisional=data.draw(st.sampled_from(lives)),
        )  # fmt: skip
        again = [c._replace(provisional=one.provisional) for w, c in self.claimed[-4:] if w == worker]
        one = data.draw(st.sampled_from([one, one, *again]))
        told: list[Record] = [one, Start(one.seq, one.task_id, 99, 100, age)]
        told.append(Note(self.seq(worker), "note", None, {"x": 1}))
        if outcome:
            told.append(Finish(self.seq(worker), one.seq, one.task_id, outcome, None, 3, age))
        self.claimed.append((worker, one))
        for records in (told[:cut], told):
            self.both("record", self.fences[worker], records, renewing=())

    @rule(data=st.data())
    def late(self, data: st.DataObject) -> None:
        """What happened in a life that is over."""
        life = self.a_life(data)
        seq = self.seq(self.names[life])
        of = data.draw(st.sampled_from([(life, claim(1)), *self.claimed[-6:]]))[1]
        told = [Finish(seq, of.seq, of.task_id, State.SUCCEEDED, "late", 3, 7)]
        self.both("record", Fence(life, 0), told, renewing=())

    # -- losses and recoveries ------------------------------------------------

    @rule(
        courier=st.sampled_from(("c1", *WORKERS)), scope=scopes, again=st.booleans(), limit=st.integers(1, 9)
    )
    def take_cases(self, courier: str, scope: str, again: bool, limit: int) -> None:
        limit = self.whole(limit, scope, courier if again else "")
        cases = self.both("take_cases", courier, scope, limit=limit, again=again)
        self.cases += [case.recovery for case in cases]

    def whole(self, limit: int, scope: str, mine: str) -> int:
        """So many or more that no losses of one moment are parted: which of those come first is open."""
        free = [
            one.created_at
            for one in self.model.store._recoveries.values()
            if one.state in UNDER_WAY and one.scope == scope and self.model.store._free(one, self.now, mine)
        ]
        return limit + sum(moment in sorted(free)[:limit] for moment in sorted(free)[limit:])

    @precondition(lambda self: self.model.store._recoveries)
    @rule(
        data=st.data(),
        due=st.sampled_from((None, 0, 30_000)),
        dead_lettered=st.booleans(),
        times=st.sampled_from((1, 1, 2)),
    )
    def decide(self, data: st.DataObject, due: int | None, dead_lettered: bool, times: int) -> None:
        """Once, or again as after a lost answer, alone or among others."""
        recovery = self.a_recovery(data)
        verdict = data.draw(st.sampled_from([v for v in VerdictKind if may_decide(recovery.state, v)]))
        evidence = {DEAD_LETTERED: dead_lettered}
        for _ in range(times):
            if data.draw(st.booleans()):
                judged = Judgement(recovery, Verdict(verdict, "because", evidence), due)
                self.both("decide_all", [judged] * times, by="c")
            else:
                self.both("decide", recovery, verdict, "because", evidence, by="c", due_in_ms=due)

    @precondition(lambda self: self.model.store._recoveries)
    @rule(data=st.data(), how=st.sampled_from(("complete", "complete_all", "give_up_case")))
    def carry_out(self, data: st.DataObject, how: str) -> None:
        recovery = self.a_recovery(data)
        if how == "complete":
            self.both("complete", recovery, by="c", data={"x": 1})
        elif how == "complete_all":
            self.both("complete_all", [recovery, self.a_recovery(data)], by="c")
        else:
            self.both("give_up_case", recovery, by="c", why="x", due_in_ms=0)

    def a_recovery(self, data: st.DataObject) -> Recovery:
        """As it is, or as a courier was given it."""
        known = self.model.store._recoveries
        return data.draw(st.sampled_from([*(known[place] for place in sorted(known)), *self.cases[-4:]]))

    # -- publishing on record -------------------------------------------------

    @rule(task=tasks, id=st.sampled_from(MESSAGES), age=ages, delay=ages, scope=scopes, kept=st.booleans())
    def publish(self, task: str, id: str, age: int, delay: int, scope: str, kept: bool) -> None:
        message = KEPT if kept else TOO_LARGE
        one = Published(
            f"{id}-{task}", task, scope, "app.add", "celery", 0, 3, message, "[]", "{}", age, delay
        )
        same_as_claimed = one._replace(message_id=id)
        self.both("publish", [one, same_as_claimed, one], due_in_ms=1000)

    @rule(scope=scopes, how=st.sampled_from(("again", "vanished", "vanished", "")), missing=st.integers(0, 2))
    def look_for(self, scope: str, how: str, missing: int) -> None:
        """A courier takes what is due, and says what it found: of what it took lately, too."""
        first, second = (
            sorted(store.take_unclaimed(scope, limit=100)) for store in (self.model.store, self.subject.store)
        )
        assert first == second
        self.taken = [*self.taken[-3:], *first]
        mine = list({(one.message_id, one.until): None for one in self.taken})
        if how == "again":
            self.both("look_again", [Look(*one, missing, 1000 * missing) for one in mine])
        elif how == "vanished":
            told = {"how": "looked"}
            self.both("declare_vanished", mine, by="w", evidence=told, due_in_ms=1000 * missing)

    @rule(ms=st.sampled_from((1, 1000, UNDECIDED_MS, 61_000)))
    def time_passes(self, ms: int) -> None:
        self.now += ms
        self.set_clock()

    # -- a person's verbs -----------------------------------------------------

    @rule(task=tasks, verb=st.sampled_from(("recover", "discard", "stop", "stop")))
    def a_person(self, task: str, verb: str) -> None:
        self.both(verb, task, by="ann", reason="said so")

    @rule(
        verb=st.sampled_from(("retract", "campaign", "note", "clock")),
        worker=workers,
        task=tasks,
        so=st.booleans(),
    )
    def beside(self, verb: str, worker: str, task: str, so: bool) -> None:
        if verb == "retract":
            self.both("retract", f"m1-{task}")
        elif verb == "campaign":
            self.both("campaign", "sweeper", worker, self.both("term", "sweeper") if so else None)
        elif verb == "note":
            self.both("note", "noted", *((task, 1) if so else (None, None)), "ann", {"why": "so"})
        else:
            self.the_clock_steps(3_600_000 if so else -3_600_000)

    def the_clock_steps(self, ms: int) -> None:
        """Two see it, and one mends it."""
        self.now += ms
        self.set_clock()
        _, mended = self.both("clock")
        for _ in range(2):
            self.both("mend_clock", mended, ms)
