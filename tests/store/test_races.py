"""Several at once, over connections of their own: one wins, the others learn that they did not."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from crisper.core.states import OPEN, State
from crisper.errors import Fenced
from tests.store.acting import PULSE, Actor, Registry, SqlRegistry, start


def at_once(*acts: Callable[[], Any]) -> list[Any]:
    """All acts, each in its thread, let go together; their values, or the error of the first that failed."""
    gate = threading.Barrier(len(acts))
    values: list[Any] = [None] * len(acts)

    def run(place: int, act: Callable[[], Any]) -> None:
        gate.wait()
        try:
            values[place] = act()
        except BaseException as exc:
            values[place] = exc

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    for value in values:
        if isinstance(value, BaseException):
            raise value
    return values


def _actors(registry: Registry, count: int) -> list[Actor]:
    return [Actor(registry.another()) for _ in range(count)]


def test_two_workers_that_claim_the_same_tasks_at_once_are_granted_each_once(registry: Registry) -> None:
    one, two = _actors(registry, 2)
    tasks = [f"t{n}" for n in range(100)]

    def ask(me: Actor, tasks: list[str]) -> list[str]:
        kinds = []
        for at in range(0, len(tasks), 20):
            kinds += [a.kind for a in me.record(*(me.wants(t) for t in tasks[at : at + 20]))]
        return kinds

    answers = at_once(lambda: ask(one, tasks), lambda: ask(two, tasks))
    for mine, other in zip(*answers, strict=True):
        assert sorted((mine, other)) == ["granted", "parked"]
    assert all(registry.states(task) == [State.CLAIMED] for task in tasks)


def test_claims_of_one_batch_each_in_opposite_orders_do_not_block_each_other_for_good(
    registry: Registry,
) -> None:
    one, two = _actors(registry, 2)
    giver = registry.joins()
    tasks = [f"t{n}" for n in range(30)]
    for task in tasks:  # known already, so that every claim takes the long way
        giver.ends(task, "m", State.RELEASED)
    answers = at_once(
        lambda: [a.kind for a in one.record(*(one.wants(t) for t in tasks))],
        lambda: [a.kind for a in two.record(*(two.wants(t) for t in reversed(tasks)))],
    )
    for mine, other in zip(answers[0], reversed(answers[1]), strict=True):
        assert sorted((mine, other)) == ["granted", "parked"]


def test_refusals_and_finishes_that_cross_do_not_block_each_other_for_good(registry: Registry) -> None:
    one, two = _actors(registry, 2)
    mine, others = one.runs("a"), two.runs("b")
    kinds = at_once(
        lambda: [a.kind for a in one.record(one.finish(mine), one.wants("b"), renewing={two.id})],
        lambda: [a.kind for a in two.record(two.finish(others), two.wants("a"), renewing={one.id})],
    )
    assert all(kind[0] == "closed" and kind[1] in ("refused", "parked") for kind in kinds)
    assert registry.states("a") == registry.states("b") == [State.SUCCEEDED]


def test_one_lost_attempt_has_one_successor_however_many_copies_ask_at_once(registry: Registry) -> None:
    lost = registry.joins()
    lost.runs()
    lost.is_lost()
    registry.nobody_decides()
    actors = _actors(registry, 4)
    kinds = at_once(*(lambda me=me: me.asks(me.wants(redelivered=True)).kind for me in actors))
    assert Counter(kinds) == {"granted": 1, "parked": 3}
    assert registry.states("t") == [State.LOST, State.CLAIMED]


def test_a_declaration_and_a_heartbeat_at_once_have_one_winner(registry: Registry) -> None:
    sweeper = registry.another()
    for _ in range(30):
        me = registry.joins()
        renewed, declared = at_once(
            lambda me=me: registry.store.renew(me.fence, PULSE),
            lambda me=me: sweeper.declare_lost(me.id, 0, by="sweeper", evidence={}),
        )
        assert renewed is not declared


def test_records_and_a_declaration_at_once_leave_nothing_open_behind_the_fence(registry: Registry) -> None:
    """What was committed before the declaration is closed by the sweep; nothing comes after it."""
    sweeper = registry.another()
    for round in range(10):
        me = registry.joins()
        tasks = [f"{round}-{n}" for n in range(20)]

        def claim_all(me: Actor = me, tasks: list[str] = tasks) -> int:
            for done, task in enumerate(tasks):
                try:
                    me.record(me.wants(task))
                except Fenced:
                    return done
            return len(tasks)

        claimed, _ = at_once(
            claim_all, lambda me=me: sweeper.declare_lost(me.id, 0, by="sweeper", evidence={})
        )
        while sweeper.close_lost(me.id, by="sweeper").more:
            pass
        states = [registry.states(task) for task in tasks]
        assert states == [[State.LOST]] * claimed + [[]] * (len(tasks) - claimed)


def test_three_sweepers_at_once_close_each_attempt_once(registry: Registry) -> None:
    me, tasks = registry.joins(), [f"t{n}" for n in range(2000)]
    for at in range(0, 2000, 500):
        wanted = [me.wants(task) for task in tasks[at : at + 500]]
        me.record(*wanted, *(start(one) for one in wanted))
    me.is_declared()
    stores = [registry.another() for _ in range(3)]

    def sweep(store: Any) -> list[str]:
        closed: list[str] = []
        while not registry_cleared(store, me.id):
            closed += store.close_lost(me.id, by="sweeper", limit=250).task_ids
        return closed

    closed = [task for swept in at_once(*(lambda s=s: sweep(s) for s in stores)) for task in swept]
    assert sorted(closed) == sorted(tasks)
    cases = [case for _ in range(4) for case in registry.take(limit=500)]
    assert Counter(c.recovery.task_id for c in cases) == Counter(tasks)
    assert all(c.recovery.losses == 1 for c in cases)
    assert len(registry.events("lost")) == 2000


def registry_cleared(store: Any, id: str) -> bool:
    return all(worker.id != id for worker in store.uncleared())


def test_couriers_at_once_take_each_case_once(registry: Registry) -> None:
    me = registry.joins()
    me.record(*(me.wants(f"t{n}") for n in range(60)))
    me.is_lost()
    stores = [registry.another() for _ in range(3)]

    def take(store: Any, name: str) -> list[str]:
        taken: list[str] = []
        while cases := store.take_cases(name, "scope-1", limit=7):
            taken += [c.recovery.task_id for c in cases]
        return taken

    taken = at_once(*(lambda s=s, n=n: take(s, f"courier-{n}") for n, s in enumerate(stores)))
    assert Counter(task for each in taken for task in each) == Counter(f"t{n}" for n in range(60))


def test_candidates_at_once_elect_one(registry: Registry) -> None:
    stores = [registry.another() for _ in range(4)]
    terms = at_once(*(lambda s=s, n=n: s.campaign("sweeper", f"c{n}", None) for n, s in enumerate(stores)))
    [elected] = [term for term in terms if term]
    assert registry.store.term("sweeper") == elected


_WORKER = """
import json, sys
from crisper.store.open import open_store
from tests.store.acting import Actor
me = Actor(open_store(sys.argv[1]))
sys.stdin.readline()
kinds = {}
for at in range(0, 200, 25):
    wanted = [me.wants(f"t{n}") for n in range(at, at + 25)]
    for one, answer in zip(wanted, me.record(*wanted)):
        kinds[one.task_id] = answer.kind
        if answer.kind == "granted":
            me.finishes(one)
print(json.dumps(kinds))
"""


def test_processes_that_claim_the_same_tasks_at_once_run_each_once(shared: SqlRegistry) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, shared.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    answers = [json.loads(worker.communicate(timeout=50)[0]) for worker in workers]
    for n in range(200):
        kinds = Counter(answer[f"t{n}"] for answer in answers)
        assert kinds["granted"] == 1, kinds
        assert set(kinds) <= {"granted", "parked", "refused"}
        assert registry_states(shared, f"t{n}") == [State.SUCCEEDED]


def registry_states(registry: Registry, task: str) -> list[State]:
    states = registry.states(task)
    assert not OPEN & set(states)
    return states
