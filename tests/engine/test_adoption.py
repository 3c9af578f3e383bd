"""Journals of the dead: whose, by what proof, under which fence, and once only."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from crisper.core.model import Incarnation, Lease, Worker
from crisper.core.states import State, WorkerState
from crisper.engine.adoption import AFTERLIFE, Adopter
from crisper.engine.folder import open_file
from crisper.engine.journal import Journal
from crisper.engine.lines import Ended, Life, Line, Told
from crisper.engine.replay import Clock
from crisper.errors import RegistryUnreachable
from tests.engine.test_recording import Shaky, finish
from tests.store.acting import Actor, Registry, incarnation, start

REGISTRY = "registry"
CLOCK = Clock(2_000_000, 1_700_000_100_000, "boot")


class Host:
    """What can be seen of the dead one's processes."""

    def __init__(self, gone: bool | None = True) -> None:
        self.gone, self.stopped = gone, True
        self.asked: list[list[tuple[int, int]]] = []

    def is_gone(self, worker: Worker | Lease) -> bool | None:
        return self.gone

    def has_recorder(self, worker: Worker | Lease) -> bool:
        return False

    def stop_left_overs(self, worker: Worker | Lease, processes: list[tuple[int, int]]) -> bool:
        self.asked.append(processes)
        return self.stopped


class Scene:
    def __init__(self, registry: Registry, folder: Path) -> None:
        self.registry, self.folder, self.host = registry, folder, Host()
        self.store = Shaky(registry.store)
        self.one = incarnation()
        self.adopter = self.another()

    def another(self, own: str = "", *, windows: bool = False) -> Adopter:
        return Adopter(
            self.store,  # type: ignore[arg-type]
            self.folder,
            REGISTRY,
            self.host,
            clock=lambda: CLOCK,
            lease=20,
            own=own,
            windows=windows,
        )

    def leaves(
        self, *lines: Line, one: Incarnation | None = None, registry: str = REGISTRY, suffix: str = ".journal"
    ) -> Path:
        """A dead worker's journal."""
        one = one or self.one
        path = self.folder / f"{one.id[-16:]}{suffix}"
        file = open_file(path)
        assert file is not None
        journal = Journal(file, most_bytes=2**30)
        journal.append([Life(dataclasses.asdict(one), registry, 1000), *lines])
        journal.close()
        return path

    def adopts(self, at: float = 0.0) -> list[str]:
        """Sweeps go by until there is nothing to do; whose journals were replayed."""
        adopted = []
        for turn in range(200):
            one = self.adopter.tick(at + turn)
            if one is not None:
                adopted.append(one.worker)
            elif not self.adopter.is_busy and turn > 2:
                break
        return adopted


@pytest.fixture
def scene(registry: Registry, tmp_path: Path) -> Scene:
    return Scene(registry, tmp_path)


def told(record: object) -> Told:
    return Told(1_999_000, 1_700_000_000_000, record)  # type: ignore[arg-type]


def enrolled(scene: Scene) -> Actor:
    return Actor(scene.registry.store, id=scene.one.id)


def test_what_a_dead_worker_ran_is_on_record_and_what_it_left_open_is_lost(scene: Scene) -> None:
    dead = enrolled(scene)
    before = dead.wants("before", "m1")
    dead.record(before, start(before, 0))
    done, runs = dead.wants("done", "m2"), dead.wants("runs", "m3")
    path = scene.leaves(told(done), told(finish(done, 50)), told(runs), told(finish(before, 51)))
    assert scene.adopts() == ["celery@host"]
    assert scene.registry.states("before") == [State.SUCCEEDED]
    assert scene.registry.states("done") == [State.SUCCEEDED]
    assert not path.exists()
    worker = scene.registry.worker(scene.one.id)
    assert worker.state is WorkerState.LOST
    assert worker.evidence["how"] == "process gone, its journal was replayed"
    assert scene.registry.store.close_lost(worker.id, by="sweeper").task_ids == ("runs",)


def test_one_that_ended_in_order_says_goodbye(scene: Scene) -> None:
    done = enrolled(scene).wants("done", "m")
    scene.leaves(told(done), told(finish(done, 50)), Ended("shutdown"))
    scene.adopts()
    assert scene.registry.worker(scene.one.id).state is WorkerState.GONE


def test_one_that_never_reached_the_registry_is_enrolled_for_it(scene: Scene) -> None:
    done = Actor(scene.registry.store).wants("done", "m")
    scene.leaves(told(done), told(finish(done, 50)))
    scene.adopts()
    assert scene.registry.states("done") == [State.SUCCEEDED]
    assert scene.registry.attempt("done").incarnation == scene.one.id


def test_what_a_declared_worker_let_run_is_recorded_under_an_afterlife_and_its_fence_stays(
    scene: Scene,
) -> None:
    dead = enrolled(scene)
    before = dead.wants("before", "m1")
    dead.record(before, start(before, 0))
    assert scene.registry.store.declare_lost(scene.one.id, 0, by="sweeper", evidence={})
    while scene.registry.store.close_lost(scene.one.id, by="sweeper").more:
        pass
    done = dead.wants("done", "m2")
    scene.leaves(told(done), told(finish(done, 50)), told(finish(before, 51)))
    scene.adopts()
    assert scene.registry.states("before") == [State.LOST]
    assert [event.task_id for event in scene.registry.events("late_finish")] == ["before"]
    assert scene.registry.states("done") == [State.SUCCEEDED]
    assert scene.registry.attempt("done").incarnation == AFTERLIFE + scene.one.id
    assert scene.registry.worker(AFTERLIFE + scene.one.id).state is WorkerState.LOST


def test_its_left_over_processes_are_stopped_before_it_is_declared(scene: Scene) -> None:
    runs = enrolled(scene).wants("runs", "m")
    scene.leaves(told(runs), told(start(runs, 77)))
    scene.host.stopped = False
    scene.adopts()
    assert scene.host.asked[-1] == [(77, scene.registry.attempt("runs").pid_start)]
    assert scene.registry.worker(scene.one.id).state is WorkerState.ALIVE  # something still runs


# -- whose may be adopted -----------------------------------------------------------


def test_a_journal_that_somebody_has_open_is_left_alone(scene: Scene) -> None:
    path = scene.leaves()
    file = open_file(path)
    assert scene.adopts() == []
    assert file is not None
    file.close()
    assert scene.adopts(100) == ["celery@host"]


def test_a_journal_whose_worker_lives_is_left_alone(scene: Scene) -> None:
    """Its recorder is being replaced, and has let go of it for a moment."""
    enrolled(scene)
    scene.leaves()
    scene.host.gone = False
    assert scene.adopts() == []


def test_our_own_is_no_orphan(scene: Scene) -> None:
    scene.leaves()
    scene.adopter = scene.another(own=scene.one.id[-16:])
    assert scene.adopts() == []


def test_a_journal_of_another_registry_is_left_alone(scene: Scene) -> None:
    path = scene.leaves(registry="another")
    assert scene.adopts() == []
    assert path.exists()
    assert not scene.adopter.has_more_to_say(scene.one.id)


def test_one_that_cannot_be_seen_from_here_is_adopted_once_the_registry_has_judged_it(scene: Scene) -> None:
    enrolled(scene)
    scene.leaves()
    scene.host.gone = None
    assert scene.adopts(0) + scene.adopts(100) == []
    assert scene.registry.store.declare_lost(scene.one.id, 0, by="sweeper", evidence={})
    scene.adopter = scene.another()
    assert scene.adopts(200) == []  # for a full lease it may only be between two recorders
    assert scene.adopts(300) == ["celery@host"]


def test_while_a_journal_waits_nobody_should_declare_its_worker(scene: Scene) -> None:
    assert not scene.adopter.has_more_to_say(scene.one.id)
    scene.leaves()
    assert scene.adopter.has_more_to_say(scene.one.id)
    scene.adopts()
    assert not scene.adopter.has_more_to_say(scene.one.id)


def test_an_empty_journal_of_nobody_is_removed_after_a_lease(scene: Scene) -> None:
    path = scene.folder / "nobody.journal"
    file = open_file(path)
    assert file is not None
    file.close()
    scene.adopts()
    assert path.exists()
    scene.adopts(100)
    assert not path.exists()


# -- after a failover ---------------------------------------------------------------


def test_what_a_dead_worker_had_committed_is_written_again_where_the_registry_has_forgotten_it(
    scene: Scene,
) -> None:
    """It went back in time: the worker seems alive, its finished task open, another one was never there."""
    dead = enrolled(scene)
    open_, forgotten = dead.wants("open", "m1"), dead.wants("forgotten", "m2")
    dead.record(open_, start(open_, 0))
    told_of = [told(open_), told(finish(open_, 50))]
    first = scene.leaves(*told_of, suffix=".000000001.window")
    second = scene.leaves(told(forgotten), told(finish(forgotten, 51)), suffix=".000000002.window")
    assert scene.adopts() == []  # as long as nothing has moved
    scene.adopter = scene.another(windows=True)
    assert scene.adopter.has_more_to_say(scene.one.id)
    assert scene.adopts() == ["celery@host"] * 2
    assert not first.exists()
    assert not second.exists()
    assert scene.registry.states("open") == [State.SUCCEEDED]
    assert scene.registry.states("forgotten") == [State.SUCCEEDED]
    assert scene.registry.worker(scene.one.id).state is WorkerState.ALIVE  # the sweeper's to declare


def test_a_dead_worker_whose_end_is_on_record_had_everything_on_record(scene: Scene) -> None:
    dead = enrolled(scene)
    done = dead.wants("done", "m")
    dead.record(done, finish(done, 50))
    assert scene.registry.store.say_goodbye(dead.fence, reason="shutdown")
    scene.leaves(told(done), told(finish(done, 50)), suffix=".000000001.window")
    scene.adopter = scene.another(windows=True)
    assert scene.adopts() == []
    assert not scene.adopter.has_more_to_say(scene.one.id)


# -- what may go wrong --------------------------------------------------------------


def test_a_registry_that_is_away_again_breaks_nothing_off(scene: Scene) -> None:
    done = enrolled(scene).wants("done", "m")
    scene.leaves(told(done), told(finish(done, 50)))
    scene.adopter.tick(0.0)
    assert scene.adopter.is_busy
    scene.store.away = True
    with pytest.raises(RegistryUnreachable):
        scene.adopter.tick(1.0)
    scene.store.away = False
    scene.adopts(10)
    assert scene.registry.states("done") == [State.SUCCEEDED]


def test_an_adopter_killed_in_the_middle_leaves_it_to_the_next_and_nothing_is_doubled(scene: Scene) -> None:
    dead = enrolled(scene)
    claims = [dead.wants(f"t{n}", f"m{n}") for n in range(600)]
    scene.leaves(*map(told, claims), *(told(finish(c, 9000 + n)) for n, c in enumerate(claims)))
    scene.adopter.tick(0.0)
    scene.adopter.tick(1.0)
    assert scene.adopter.is_busy
    scene.adopter.close()
    scene.adopter = scene.another()
    assert scene.adopts(10) == ["celery@host"]
    for claim in claims:
        assert scene.registry.states(claim.task_id) == [State.SUCCEEDED]
    assert scene.registry.events("late_finish") == []


def test_times_of_another_boot_are_told_by_the_hosts_own_clock(scene: Scene) -> None:
    one = dataclasses.replace(scene.one, boot_id="an earlier boot")
    Actor(scene.registry.store, id=one.id)
    done = Actor(scene.registry.store).wants("done", "m")
    scene.leaves(told(done), one=one)
    scene.adopts()
    attempt = scene.registry.attempt("done")
    other = Actor(scene.registry.store)
    other.record(other.wants("now", "m-now"))
    age = scene.registry.attempt("now").received_at - attempt.received_at
    assert 99_000 < age < 130_000
