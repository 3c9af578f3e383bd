"""Memory and SQLite, step by step side by side: whatever is done, both answer and look the same."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from crisper.core.model import ChildLost, Finish, Recovery, Start
from crisper.core.states import (
    CLOSED,
    MOVES,
    OPEN,
    RECOVERY_MOVES,
    OnLost,
    State,
    VerdictKind,
    WorkerState,
    may_decide,
)
from crisper.errors import Fenced
from crisper.store import migrate
from tests.store.acting import (
    KEPT,
    PULSE,
    SCOPE,
    TOO_LARGE,
    MemoryRegistry,
    Registry,
    SqlRegistry,
    claim,
    incarnation,
)

TASKS = ("a", "b")
WORKERS = ("w1", "w2", "w3")
OUTCOMES = sorted(CLOSED - {State.LOST})

workers, tasks, anything = st.sampled_from(WORKERS), st.sampled_from(TASKS), st.data()


@functools.cache
def _empty_registry() -> bytes:
    with tempfile.TemporaryDirectory(prefix="crisper-machine-") as folder:
        migrate.upgrade(f"sqlite:///{folder}/registry.db")
        return Path(folder, "registry.db").read_bytes()


class Stores(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="crisper-machine-")
        Path(f"{self.folder.name}/registry.db").write_bytes(_empty_registry())
        self.memory = MemoryRegistry()
        self.sqlite = SqlRegistry(f"sqlite:///{self.folder.name}/registry.db")
        self.sqlite.store.db._connect().execute("PRAGMA synchronous = OFF")
        self.fences = {id: self.both("enroll", incarnation(id)) for id in WORKERS}
        self.lives = list(WORKERS)
        self.seqs = dict.fromkeys(WORKERS, 0)
        self.claimed: list[tuple[str, Any]] = []
        self.seen: dict[Any, Any] = {}

    def teardown(self) -> None:
        self.sqlite.close()
        self.folder.cleanup()

    def both(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        """The verb on both; the same answer of both."""
        answers = []
        for registry in (self.memory, self.sqlite):
            try:
                answers.append(getattr(registry.store, verb)(*args, **kwargs))
            except Fenced:
                answers.append(Fenced)
        one, two = (_timeless(answer) for answer in answers)
        assert one == two, f"{verb}: memory {one}, sqlite {two}"
        return answers[0]

    def seq(self, worker: str) -> int:
        self.seqs[worker] += 1
        return self.seqs[worker]

    # -- what may happen ------------------------------------------------------

    @rule(
        worker=workers,
        asked=st.lists(
            st.tuples(tasks, st.sampled_from(("m1", "m2")), *[st.booleans()] * 4),
            min_size=1,
            max_size=3,
        ),
        on_lost=st.sampled_from(OnLost),
        renewing=st.sets(workers),
        kept=st.booleans(),
    )
    def claim(self, worker: str, asked: list[Any], on_lost: OnLost, renewing: set[str], kept: bool) -> None:
        wanted = [
            claim(
                self.seq(worker), task, message, redelivered=redelivered, identified=identified,
                dispatched=dispatched, on_lost=on_lost, loss_budget=1, message=KEPT if kept else TOO_LARGE,
                retries=int(message == "m2"), copy=copy,
            )
            for task, message, redelivered, identified, dispatched, copy in asked
        ]  # fmt: skip
        self.claimed += [(worker, one) for one in wanted]
        self.both("record", self.fences[worker], wanted, renewing=renewing)

    @precondition(lambda self: self.claimed)
    @rule(
        data=anything,
        kinds=st.lists(
            st.sampled_from(("start", "dispatch", "finish", "child", "claim")), min_size=1, max_size=4
        ),
        state=st.sampled_from(OUTCOMES),
    )
    def go_on(self, data: st.DataObject, kinds: list[str], state: State) -> None:
        """Any records of any claim, sensible or not, in one batch, and sometimes twice."""
        worker, of = data.draw(st.sampled_from(self.claimed[-12:]))
        made = {
            "start": lambda: Start(of.seq, of.task_id, 99, 100),
            "dispatch": lambda: Start(of.seq, of.task_id, 0, 0),
            "finish": lambda: Finish(self.seq(worker), of.seq, of.task_id, state, "said", 5),
            "child": lambda: ChildLost(self.seq(worker), of.seq, of.task_id, True, {"signal": 9}),
            "claim": lambda: of,
        }
        records = [made[kind]() for kind in kinds]
        for _ in range(data.draw(st.sampled_from((1, 1, 2)))):
            self.both("record", self.fences[worker], records, renewing=())

    @rule(worker=workers)
    def renew(self, worker: str) -> None:
        self.both("renew", self.fences[worker], PULSE)

    @rule(worker=workers, follow=st.booleans())
    def replace_recorder(self, worker: str, follow: bool) -> None:
        fence = self.both("replace_recorder", self.fences[worker])
        if fence and follow:
            self.fences[worker] = fence

    @rule(worker=workers, moved=st.sampled_from((0, 0, 1)))
    def declare(self, worker: str, moved: int) -> None:
        id = self.fences[worker].incarnation
        counter = self.memory.worker(id).counter + moved
        self.both("declare_lost", id, counter, by="sweeper", evidence={"how": "silence"})

    @rule(worker=workers)
    def say_goodbye(self, worker: str) -> None:
        self.both("say_goodbye", self.fences[worker], reason="stop")

    @rule(data=anything, limit=st.integers(1, 3))
    def close(self, data: st.DataObject, limit: int) -> None:
        self.both("close_lost", data.draw(st.sampled_from(self.lives)), by="sweeper", limit=limit)

    @rule(worker=workers)
    def come_back(self, worker: str) -> None:
        """A dead worker's next life."""
        if self.memory.worker(self.fences[worker].incarnation).state is not WorkerState.ALIVE:
            life = f"{worker}-{self.seq(worker)}"
            self.fences[worker] = self.both("enroll", incarnation(life))
            self.lives.append(life)

    @rule(courier=st.sampled_from(("c1", *WORKERS)))
    def take(self, courier: str) -> None:
        cases = [
            sorted(_timeless(c) for c in r.take(courier, SCOPE, 100)) for r in (self.memory, self.sqlite)
        ]
        assert cases[0] == cases[1]

    @rule(ms=st.sampled_from((1_000, 61_000)))
    def later(self, ms: int) -> None:
        self.memory.later(ms)
        self.sqlite.later(ms)

    @precondition(lambda self: self.memory.store._recoveries)
    @rule(data=anything, verdict=st.sampled_from(VerdictKind), due=st.sampled_from((None, 0, 30_000)))
    def decide(self, data: st.DataObject, verdict: VerdictKind, due: int | None) -> None:
        recovery = self._draw(data)
        if may_decide(recovery.state, verdict):
            for _ in range(2):  # the second finds it moved
                self.both("decide", recovery, verdict, "because", {"x": 1}, by="c", due_in_ms=due)

    @precondition(lambda self: self.memory.store._recoveries)
    @rule(data=anything, how=st.sampled_from(("complete", "give_up_case")))
    def carry_out(self, data: st.DataObject, how: str) -> None:
        recovery = self._draw(data)
        if how == "complete":
            self.both("complete", recovery, by="c", data={})
        else:
            self.both("give_up_case", recovery, by="c", why="x", due_in_ms=0)

    def _draw(self, data: st.DataObject) -> Recovery:
        place = data.draw(st.sampled_from(sorted(self.memory.store._recoveries)))
        return self.memory.store._recoveries[place]

    @rule(task=tasks, verb=st.sampled_from(("recover", "discard", "stop", "stop")))
    def a_person(self, task: str, verb: str) -> None:
        self.both(verb, task, by="ann", reason="said so")

    @rule(data=anything)
    def orders(self, data: st.DataObject) -> None:
        self.both("orders", data.draw(st.sampled_from(self.lives)))

    # -- what holds always ----------------------------------------------------

    @invariant()
    def both_look_the_same(self) -> None:
        for task in TASKS:
            assert _looks(self.memory, task) == _looks(self.sqlite, task)
        for id in self.lives:
            one, two = self.memory.worker(id), self.sqlite.worker(id)
            assert _timeless(one) == _timeless(two)

    @invariant()
    def at_most_one_attempt_of_a_message_is_open(self) -> None:
        for task in TASKS:
            open_ones = [a.message_id for a in self.memory.attempts(task) if a.state in OPEN]
            assert len(open_ones) == len(set(open_ones))

    @invariant()
    def every_lost_attempt_has_one_recovery_and_no_other_but_what_was_stopped_has(self) -> None:
        for task in TASKS:
            lost = [a.number for a in self.memory.attempts(task) if a.state is State.LOST]
            assert lost == [r.number for r in self.memory.recoveries(task) if r.cause != "stop"]
            revoked = {a.number for a in self.memory.attempts(task) if a.state is State.REVOKED}
            assert revoked.issuperset(r.number for r in self.memory.recoveries(task) if r.cause == "stop")

    @invariant()
    def a_worker_is_told_to_stop_only_what_it_holds(self) -> None:
        for id in self.lives:
            for order in self.both("orders", id):
                held = [a for t in TASKS for a in self.memory.attempts(t) if a.incarnation == id]
                [of] = [a for a in held if (a.seq, a.number) == (order.seq, order.number)]
                assert of.state in OPEN

    @invariant()
    def everything_moved_along_the_tables(self) -> None:
        for task in TASKS:
            for attempt in self.memory.attempts(task):
                self._moved(("attempt", task, attempt.number), attempt.state, _reach(MOVES))
            for recovery in self.memory.recoveries(task):
                self._moved(("recovery", task, recovery.number), recovery.state, _reach(RECOVERY_MOVES))

    def _moved(self, what: Any, now: Any, reach: dict[Any, set[Any]]) -> None:
        before = self.seen.setdefault(what, now)
        assert now is before or now in reach[before], f"{what}: {before} became {now}"
        self.seen[what] = now


def _reach(moves: Any) -> dict[Any, set[Any]]:
    """A batch may make several moves at once."""
    reach = {state: set(to) for state, to in moves.items()}
    for _ in reach:
        for to in reach.values():
            to |= {further for state in to.copy() for further in reach[state]}
    return reach


def _looks(registry: Registry, task: str) -> Any:
    attempts = registry.attempts(task)
    return (
        [_timeless(a) for a in attempts],
        [registry.body(task, a.number) for a in attempts],
        [_timeless(r) for r in registry.recoveries(task)],
        sorted(
            (e.kind, e.number or 0, e.incarnation or "", e.seq or 0, e.actor, repr(e.data))
            for e in registry.all_events()
            if e.task_id == task
        ),
    )


def _timeless(value: Any) -> str:
    """Two clocks differ; which times are set may not."""
    if value is None or isinstance(value, (bool, type)):
        return repr(value)
    if isinstance(value, tuple):
        return repr([_timeless(item) for item in value])
    if hasattr(value, "__dataclass_fields__"):
        told = {name: getattr(value, name) for name in value.__dataclass_fields__}
        return repr(
            {
                name: (one is not None) if name.endswith("_at") else _timeless(one)
                for name, one in told.items()
            }
        )
    return repr(value)


#: 200 runs of 35 steps take half a minute on an idle machine.
pytestmark = pytest.mark.timeout(240)

TestStores = Stores.TestCase
TestStores.settings = settings(
    max_examples=200,
    stateful_step_count=35,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
