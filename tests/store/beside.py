"""A store beside the model, which is the memory store: both answer the same and have the same on record.

The model's clock and the registry's are one, and only the machine moves it; so times are compared as
everything else is.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant

from crisper.core.model import Claim, Entry, Fence, Published, Recovery
from crisper.core.states import MOVES, OPEN, RECOVERY_MOVES, State
from crisper.errors import Fenced
from tests.store.acting import SCOPE, MemoryRegistry, SqlRegistry, incarnation
from tests.store.looking import differences, empty, in_memory, in_sql, set_clock

TASKS = ("a", "b")
#: The third worker is another app's.
WORKERS = {"w1": SCOPE, "w2": SCOPE, "w3": "scope-2"}


class Beside(RuleBasedStateMachine):
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
        mine = [self.fences[worker]] * 8
        return data.draw(st.sampled_from([*mine, *self.past_fences[-2:]]))

    def a_life(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(list(self.names)))

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
        known = [Entry(claim.task_id, claim.message_id, claim.tag) for _, claim in self.claimed[-8:]]
        self.both("left_over", [*known, Entry("never", "seen", "tag")])

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
