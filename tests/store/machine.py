"""Every verb of a store beside the model's, step by step: both answer the same and have the same on record.

The model is the memory store. Its clock and the registry's are one, which only `time_passes` and
`the_clock_steps` move; so times are compared as everything else is.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from crisper.core.gate import UNDECIDED_MS
from crisper.core.model import (
    ChildLost,
    Claim,
    Entry,
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
from crisper.core.states import CLOSED, MOVES, OPEN, RECOVERY_MOVES, OnLost, State, VerdictKind, may_decide
from crisper.core.verdict import DEAD_LETTERED, Judgement, Verdict
from crisper.errors import Fenced
from crisper.store.at_once import LARGEST_BODY
from tests.store.acting import KEPT, SCOPE, TOO_LARGE, MemoryRegistry, SqlRegistry, claim, incarnation
from tests.store.looking import differences, empty, in_memory, in_sql, set_clock

TASKS, MESSAGES = ("a", "b"), ("m1", "m2")
#: The third worker is another app's.
WORKERS = {"w1": SCOPE, "w2": SCOPE, "w3": "scope-2"}
OUTCOMES = sorted(CLOSED - {State.LOST})
#: Of its size, because it goes another way to PostgreSQL.
LARGE = Message(b"x" * (LARGEST_BODY + 1), '{"headers": {}}', LARGEST_BODY + 1)

workers, tasks = st.sampled_from(sorted(WORKERS)), st.sampled_from(TASKS)
scopes = st.sampled_from(sorted({*WORKERS.values()}))
ages = st.sampled_from((0, 0, 7, UNDECIDED_MS, 61_000))
asked = st.tuples(tasks, st.sampled_from(MESSAGES), ages, *[st.booleans()] * 4)


class Stores(RuleBasedStateMachine):
    """`subject` is emptied first."""

    def __init__(self, subject: SqlRegistry) -> None:
        super().__init__()
        self.subject, self.model = subject, MemoryRegistry()
        self.now = 1_800_000_000_000
        empty(subject.store)
        self.set_clock()
        self.fences: dict[str, Fence] = {}
        self.past_fences: list[Fence] = []
        self.seqs = dict.fromkeys(WORKERS, 0)
        self.names: dict[str, str] = {}  # of every life: its worker
        self.claimed: list[tuple[str, Claim]] = []
        self.taken: list[Published] = []
        self.cases: list[Recovery] = []
        self.reached: dict[Any, Any] = {}
        for name in WORKERS:
            self.enters(name, name)

    def set_clock(self) -> None:
        self.model.now = self.now
        set_clock(self.subject.store, self.now)

    def both(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        """What both answer."""
        answers = []
        for store in (self.model.store, self.subject.store):
            try:
                answers.append(getattr(store, verb)(*args, **kwargs))
            except Fenced:
                answers.append(Fenced)
        assert answers[0] == answers[1], f"{verb}: the model {answers[0]}, it {answers[1]}"
        return answers[0]

    def enters(self, name: str, life: str) -> None:
        self.fences[name] = self.both("enroll", incarnation(life, scope=WORKERS[name]))
        self.names[life] = name

    def seq(self, worker: str) -> int:
        self.seqs[worker] += 1
        return self.seqs[worker]

    def a_fence(self, data: st.DataObject, worker: str) -> Fence:
        """The worker's own, or sometimes one that does not hold any more."""
        mine = [self.fences[worker]] * 5
        return data.draw(st.sampled_from([*mine, *self.past_fences[-4:]]))

    def a_life(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(list(self.names)))

    # -- incarnations ---------------------------------------------------------

    @rule(worker=workers, data=st.data(), journal=st.booleans())
    def renew(self, worker: str, data: st.DataObject, journal: bool) -> None:
        self.both("renew", self.a_fence(data, worker), Pulse(11, 22, 3, {"journal": journal}))

    @rule(worker=workers, data=st.data())
    def replace_recorder(self, worker: str, data: st.DataObject) -> None:
        fence = self.a_fence(data, worker)
        replaced = self.both("replace_recorder", fence)
        if replaced and replaced.incarnation == self.fences[worker].incarnation:
            self.past_fences.append(self.fences[worker])
            self.fences[worker] = replaced

    @rule(data=st.data(), missed=st.sampled_from((0, 0, 1)))
    def declare_lost(self, data: st.DataObject, missed: int) -> None:
        id = self.a_life(data)
        counter = self.model.worker(id).counter - missed
        self.both("declare_lost", id, counter, by="sweeper", evidence={"how": "silence"})

    @rule(worker=workers, data=st.data(), lost=st.booleans())
    def its_own_end(self, worker: str, data: st.DataObject, lost: bool) -> None:
        fence = self.a_fence(data, worker)
        if lost:
            self.both("declare_own_loss", fence, evidence={"how": "seen"})
        else:
            self.both("say_goodbye", fence, reason="stop")

    @rule(worker=workers, again=st.booleans())
    def enroll(self, worker: str, again: bool) -> None:
        """The worker's next life, or its present one once more, as after a lost answer."""
        life = self.fences[worker].incarnation if again else f"{worker}-{self.seq(worker)}"
        if not again:
            self.past_fences.append(self.fences[worker])
            self.enters(worker, life)
        else:
            self.both("enroll", incarnation(life, scope=WORKERS[worker]))

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

    @precondition(lambda self: self.claimed)
    @rule(data=st.data())
    def left_over(self, data: st.DataObject) -> None:
        known = [Entry(c.task_id, c.message_id, c.tag) for _, c in self.claimed[-8:]]
        self.both("left_over", [*known, Entry("never", "seen", "tag")])

    # -- losses and recoveries ------------------------------------------------

    @rule(
        courier=st.sampled_from(("c1", *WORKERS)), scope=scopes, again=st.booleans(), limit=st.integers(1, 9)
    )
    def take_cases(self, courier: str, scope: str, again: bool, limit: int) -> None:
        cases = self.both("take_cases", courier, scope, limit=limit, again=again)
        self.cases += [case.recovery for case in cases]

    @precondition(lambda self: self.model.store._recoveries)
    @rule(
        data=st.data(),
        verdict=st.sampled_from(VerdictKind),
        due=st.sampled_from((None, 0, 30_000)),
        dead_lettered=st.booleans(),
        times=st.sampled_from((1, 1, 2)),
    )
    def decide(
        self, data: st.DataObject, verdict: VerdictKind, due: int | None, dead_lettered: bool, times: int
    ) -> None:
        """Once, or again as after a lost answer, alone or among others."""
        recovery = self.a_recovery(data)
        if not may_decide(recovery.state, verdict):
            return
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

    @rule(task=tasks, id=st.sampled_from(MESSAGES))
    def retract(self, task: str, id: str) -> None:
        self.both("retract", f"{id}-{task}")

    @rule(scope=scopes)
    def take_unclaimed(self, scope: str) -> None:
        first, second = (
            sorted(store.take_unclaimed(scope, limit=100)) for store in (self.model.store, self.subject.store)
        )
        assert first == second
        self.taken += first

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), missing=st.integers(0, 2), due=st.sampled_from((0, 1000)))
    def look_again(self, data: st.DataObject, missing: int, due: int) -> None:
        of = data.draw(st.sampled_from(self.taken[-4:]))
        self.both("look_again", [Look(of.message_id, of.until, missing, due)])

    @precondition(lambda self: self.taken)
    @rule(due=st.sampled_from((0, 1000)))
    def declare_vanished(self, due: int) -> None:
        mine = list({(one.message_id, one.until): None for one in self.taken[-3:]})
        self.both("declare_vanished", mine, by="w", evidence={"how": "looked"}, due_in_ms=due)

    # -- leadership, the clock ------------------------------------------------

    @rule(holder=workers, seen=st.booleans())
    def campaign(self, holder: str, seen: bool) -> None:
        self.both("campaign", "sweeper", holder, self.both("term", "sweeper") if seen else None)

    @rule(ms=st.sampled_from((1, 1000, UNDECIDED_MS, 61_000)))
    def time_passes(self, ms: int) -> None:
        self.now += ms
        self.set_clock()

    @rule(ms=st.sampled_from((-3_600_000, 3_600_000)), twice=st.booleans())
    def the_clock_steps(self, ms: int, twice: bool) -> None:
        self.now += ms
        self.set_clock()
        _, mended = self.both("clock")
        for _ in range(1 + twice):
            self.both("mend_clock", mended, ms)

    # -- a person's verbs -----------------------------------------------------

    @rule(task=tasks, verb=st.sampled_from(("recover", "discard", "stop", "stop")))
    def a_person(self, task: str, verb: str) -> None:
        self.both(verb, task, by="ann", reason="said so")

    @rule(task=st.none() | tasks)
    def note(self, task: str | None) -> None:
        self.both("note", "noted", task, 1 if task else None, "ann", {"why": "so"})

    # -- what holds always ----------------------------------------------------

    @invariant()
    def both_have_the_same_on_record(self) -> None:
        one, two = in_memory(self.model), in_sql(self.subject)
        assert one == two, differences(one, two)

    @invariant()
    def both_tell_the_same(self) -> None:
        self.both("alive")
        self.both("uncleared")
        for life in list(self.names)[-4:]:
            told = [store.running_processes(life) for store in (self.model.store, self.subject.store)]
            assert sorted(told[0]) == sorted(told[1])
        for place in self.model.store._recoveries:
            self.both("case", *place)

    @invariant()
    def at_most_one_attempt_of_a_message_is_open(self) -> None:
        for task in TASKS:
            open_ones = [a.message_id for a in self.model.attempts(task) if a.state in OPEN]
            assert len(open_ones) == len(set(open_ones))

    @invariant()
    def every_lost_attempt_has_one_recovery_and_no_other_but_what_was_stopped_has(self) -> None:
        for task in TASKS:
            lost = [a.number for a in self.model.attempts(task) if a.state is State.LOST]
            assert lost == [r.number for r in self.model.recoveries(task) if r.cause != "stop"]
            revoked = {a.number for a in self.model.attempts(task) if a.state is State.REVOKED}
            assert revoked.issuperset(r.number for r in self.model.recoveries(task) if r.cause == "stop")

    @invariant()
    def a_worker_is_told_to_stop_only_what_it_holds(self) -> None:
        for life in self.names:
            for order in self.both("orders", life):
                held = [a for t in TASKS for a in self.model.attempts(t) if a.incarnation == life]
                [of] = [a for a in held if (a.seq, a.number) == (order.seq, order.number)]
                assert of.state in OPEN

    @invariant()
    def everything_moved_along_the_tables(self) -> None:
        for task in TASKS:
            for attempt in self.model.attempts(task):
                self._moved(("attempt", task, attempt.number), attempt.state, _reach(MOVES))
            for recovery in self.model.recoveries(task):
                self._moved(("recovery", task, recovery.number), recovery.state, _reach(RECOVERY_MOVES))

    def _moved(self, what: Any, now: Any, reach: dict[Any, set[Any]]) -> None:
        before = self.reached.setdefault(what, now)
        assert now is before or now in reach[before], f"{what}: {before} became {now}"
        self.reached[what] = now


def _reach(moves: Any) -> dict[Any, set[Any]]:
    """A batch may make several moves at once."""
    reach = {state: set(to) for state, to in moves.items()}
    for _ in reach:
        for to in reach.values():
            to |= {further for state in to.copy() for further in reach[state]}
    return reach
