"""Records go to the registry, or to the journal and from there to the registry: in order, each once."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from crisper.core.model import Answer, ChildLost, Claim, Fence, Finish, Published, Record
from crisper.core.states import RecoveryState, State, VerdictKind
from crisper.engine.circuit import Circuit
from crisper.engine.folder import open_file
from crisper.engine.journal import RESERVE, Journal
from crisper.engine.lines import Life
from crisper.engine.recording import Recording
from crisper.engine.replay import BATCH
from crisper.engine.writer import START_AFTER_MS, Writer
from crisper.errors import Fenced, RegistryUnreachable
from tests.store.acting import KEPT, Actor, Registry, incarnation, start

NOW = 1_000_000


class Shaky:
    """A registry that may be away, or lose its reply; everything else is the store's own."""

    def __init__(self, store: object) -> None:
        self._store = store
        self.away, self.loses_reply = False, 0

    def __getattr__(self, name: str) -> object:
        if self.away:
            raise RegistryUnreachable("it is away")
        return getattr(self._store, name)

    def record(
        self, fence: Fence, records: Sequence[Record], *, renewing: Collection[str] | None = None
    ) -> list[Answer]:
        if self.away:
            raise RegistryUnreachable("it is away")
        answers: list[Answer] = self._store.record(fence, records, renewing=renewing)  # type: ignore[attr-defined]
        if self.loses_reply:
            self.loses_reply -= 1
            raise RegistryUnreachable("the reply was lost")
        return answers


class Scene:
    """One worker's recording, on a clock of its own."""

    def __init__(self, registry: Registry, folder: Path, *, strict: bool = True, most: int = 2**30) -> None:
        self.registry, self.folder, self.strict, self.most = registry, folder, strict, most
        self.store = Shaky(registry.store)
        self.one = incarnation()
        self.actor = Actor(registry.store, id=self.one.id)
        self.clock = 0.0
        self.errors: list[str] = []
        self.circuit = Circuit(clock=lambda: self.clock, seed=1)
        self.recording = self.begin(self.actor.fence)

    def begin(self, fence: Fence) -> Recording:
        """A recorder starts, with whatever the journal holds."""
        file = open_file(self.folder / "w.journal")
        assert file is not None
        one = dataclasses.asdict(dataclasses.replace(self.one, id=fence.incarnation))
        return Recording(
            Writer(self.store, fence, renewing=lambda: (), strict=self.strict, on_error=self.errors.append),  # type: ignore[arg-type]
            self.store,  # type: ignore[arg-type]
            self.circuit,
            Journal(file, most_bytes=self.most),
            Life(one, "registry", 1000),
            on_error=self.errors.append,
            wall=lambda: NOW,
        )

    def died(self) -> None:
        """The recorder is gone, and with it what was only in its memory."""
        assert self.recording.journal is not None
        self.recording.journal.close()

    def is_back(self) -> None:
        self.store.away = False
        self.circuit.reset()

    def write(self, at: int = NOW) -> list[tuple[int, str, int]]:
        return [(a.seq, a.kind, a.number) for a in self.recording.write(at).answers if a.kind != "closed"]

    def says(self, *records: Record) -> None:
        for record in records:
            self.recording.writer.add(NOW, record)

    def drain(self) -> list[tuple[int, str, int]]:
        answers = []
        for _ in range(1000):
            if not self.recording.backlog and self.recording.due(NOW) != 0:
                return answers
            answers += self.write()
        raise AssertionError("it is never done")


@pytest.fixture
def scene(registry: Registry, tmp_path: Path) -> Scene:
    return Scene(registry, tmp_path)


def finish(claim: Claim, seq: int, state: State = State.SUCCEEDED) -> Finish:
    return Finish(seq, claim.seq, claim.task_id, state, None, 5)


# -- away ---------------------------------------------------------------------------


def test_while_the_registry_is_away_claims_are_let_run_and_are_attempts_when_it_is_back(scene: Scene) -> None:
    claim = scene.actor.wants("t", "m")
    scene.store.away = True
    scene.says(claim)
    assert scene.write() == [(claim.seq, "granted", 0)]
    assert scene.recording.writer.durable == claim.seq
    scene.says(finish(claim, 50))
    assert scene.write() == []
    assert scene.recording.writer.durable == 50
    scene.is_back()
    assert scene.drain() == [(claim.seq, "granted", 1)]
    assert scene.registry.states("t") == [State.SUCCEEDED]
    assert scene.recording.journal.end == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("lines_between", [0, BATCH + 1])
def test_what_a_journal_gave_back_is_not_taken_for_the_delivery_that_a_later_loss_waits_for(
    scene: Scene, lines_between: int
) -> None:
    claim = scene.actor.wants("t", "m")
    scene.store.away = True
    scene.says(claim)
    scene.write()
    scene.says(*(scene.actor.notes("note") for _ in range(lines_between)))
    scene.says(finish(claim, 5000, State.RELEASED))
    while scene.recording.writer.durable < 5000:
        scene.write()
    other = scene.registry.joins()
    other.runs("t", "m")
    other.is_lost()
    waits = scene.registry.decided("t", VerdictKind.AWAIT_REDELIVERY)
    scene.is_back()
    assert scene.drain() == [(claim.seq, "overlap", 1)]
    assert scene.registry.states("t") == [State.LOST]
    assert scene.registry.recovery("t").state is waits.state
    scene.registry.joins().claims("t", "m", redelivered=True)
    assert scene.registry.states("t") == [State.LOST, State.CLAIMED]
    assert scene.registry.recovery("t").state is RecoveryState.DONE


def test_what_a_journal_gave_back_is_on_record_where_nothing_was_lost_since(scene: Scene) -> None:
    claim = scene.actor.wants("t", "m")
    scene.store.away = True
    scene.says(claim, finish(claim, 50, State.RELEASED))
    scene.write()
    scene.is_back()
    assert scene.drain() == [(claim.seq, "granted", 1)]
    assert scene.registry.states("t") == [State.RELEASED]


def test_without_a_journal_what_cannot_be_written_waits(scene: Scene) -> None:
    scene.recording.journal = None
    claim = scene.actor.wants("t", "m")
    scene.store.away = True
    scene.says(claim)
    with pytest.raises(RegistryUnreachable):
        scene.write()
    scene.is_back()
    assert scene.write() == [(claim.seq, "granted", 1)]


def test_nobody_waits_for_a_replay_and_an_attempts_records_keep_their_order(scene: Scene) -> None:
    claims = [scene.actor.wants(f"t{n}", f"m{n}") for n in range(3 * BATCH)]
    scene.store.away = True
    scene.says(*claims)
    while scene.recording.due(NOW) == 0:
        scene.write()
    scene.is_back()
    new = scene.actor.wants("new", "new")
    outcomes = [finish(claim, 10_000 + n) for n, claim in enumerate(claims)]
    scene.says(new, *outcomes)
    first = scene.write()
    assert (new.seq, "granted", 0) in first
    assert scene.recording.backlog
    scene.drain()
    states = {scene.registry.states(claim.task_id)[0] for claim in claims[:: BATCH // 5]}
    assert states == {State.SUCCEEDED}
    assert scene.registry.states("new") == [State.CLAIMED]


def test_starts_and_lost_children_go_through_the_journal_too(scene: Scene) -> None:
    runs, dies = scene.actor.wants("runs", "m1"), scene.actor.wants("dies", "m2")
    scene.store.away = True
    scene.says(runs, dies)
    scene.write()
    scene.says(start(runs, 7), start(dies, 8))
    scene.write(NOW + START_AFTER_MS)
    loss = ChildLost(90, dies.seq, "dies", True, {"how": "signal 9"})
    scene.says(loss)
    assert scene.write() == [(90, "lost", 0)]
    scene.is_back()
    scene.drain()
    assert scene.registry.states("runs") == [State.RUNNING]
    assert scene.registry.states("dies") == [State.LOST]
    assert scene.registry.recovery("dies").losses == 1


# -- who may not run ----------------------------------------------------------------


def test_a_redelivered_message_waits_because_nobody_can_say_whether_it_has_finished(scene: Scene) -> None:
    known = scene.actor.wants("t", "m")
    scene.actor.record(known)
    scene.actor.record(finish(known, 40))
    again = scene.actor.wants("t", "m", redelivered=True)
    scene.store.away = True
    scene.says(again)
    assert scene.write() == [(again.seq, "parked", 0)]
    assert scene.recording.writer.durable == again.seq  # it holds up no outcome behind it
    scene.is_back()
    scene.recording.writer.drop(0)
    answers = scene.drain() + scene.write(NOW + 1000)
    assert answers == [(again.seq, "refused", 1)]


def test_in_relaxed_recording_it_runs_already_and_is_on_record(registry: Registry, tmp_path: Path) -> None:
    scene = Scene(registry, tmp_path, strict=False)
    again = scene.actor.wants("t", "m", redelivered=True)
    scene.store.away = True
    scene.says(again)
    assert scene.write() == [(again.seq, "granted", 0)]
    scene.is_back()
    assert scene.drain() == [(again.seq, "granted", 1)]


def test_what_ran_meanwhile_elsewhere_is_a_rival_and_the_later_one_is_an_overlap(scene: Scene) -> None:
    here = scene.actor.wants("t", "m")
    scene.store.away = True
    scene.says(here)
    scene.write()
    elsewhere = scene.registry.joins()
    elsewhere.record(elsewhere.wants("t", "m"))
    scene.says(finish(here, 60))
    scene.write()
    scene.is_back()
    assert scene.drain() == [(here.seq, "overlap", 1)]
    assert scene.registry.states("t") == [State.CLAIMED]
    assert [event.kind for event in scene.registry.events("overlap", "t")] == ["overlap"]
    assert len(scene.registry.events("late_finish", "t")) == 1


def test_when_the_journal_is_full_no_task_begins_and_every_outcome_is_taken(
    registry: Registry, tmp_path: Path
) -> None:
    scene = Scene(registry, tmp_path, most=RESERVE + 40_000)
    scene.store.away = True
    began = []
    for n in range(100):
        claim = scene.actor.wants(f"t{n}", f"m{n}", message=KEPT)
        scene.says(claim)
        [(_, kind, _)] = scene.write()
        if kind == "parked":
            break
        began.append(claim)
    else:
        raise AssertionError("it never was full")
    assert began
    assert "its limit" in scene.recording.state.trouble
    scene.says(*(finish(claim, 500 + n) for n, claim in enumerate(began)))
    scene.write()
    assert scene.recording.writer.durable == 500 + len(began) - 1
    scene.is_back()
    scene.drain()
    assert {scene.registry.states(claim.task_id)[0] for claim in began} == {State.SUCCEEDED}
    assert scene.recording.state.trouble == ""


# -- who dies -----------------------------------------------------------------------


def test_a_replay_killed_in_the_middle_begins_again_and_changes_nothing_twice(scene: Scene) -> None:
    claims = [scene.actor.wants(f"t{n}", f"m{n}") for n in range(BATCH + 50)]
    scene.store.away = True
    scene.says(*claims, *(finish(claim, 10_000 + n) for n, claim in enumerate(claims)))
    while scene.recording.due(NOW) == 0:
        scene.write()
    scene.is_back()
    scene.write()  # a part of it
    assert scene.recording.backlog
    scene.died()
    scene.recording = scene.begin(scene.actor.fence)
    scene.drain()
    for claim in claims:
        assert scene.registry.states(claim.task_id) == [State.SUCCEEDED]
    assert scene.registry.events("late_finish") == []


def test_a_commit_whose_reply_was_lost_is_found_committed_and_not_repeated(scene: Scene) -> None:
    claim = scene.actor.wants("t", "m")
    scene.says(claim)
    scene.store.loses_reply = 1
    assert scene.write() == [(claim.seq, "granted", 0)]  # by the journal: nobody knows yet
    scene.says(finish(claim, 70))
    scene.is_back()
    assert scene.drain() == [(claim.seq, "granted", 1)]
    assert scene.registry.states("t") == [State.SUCCEEDED]
    assert scene.registry.events("overlap") == []


def test_published_messages_find_room_in_the_journal(scene: Scene) -> None:
    message = Published("m", "t", "scope-1", "n", "q", 0, 3, KEPT, "[]", "{}")
    scene.store.away = True
    scene.recording.circuit.write_failed()
    scene.recording.publish(NOW, [message])
    scene.is_back()
    scene.drain()
    assert [one.message_id for one in scene.registry.store.take_unclaimed("scope-1", limit=9)] in ([], ["m"])
    scene.actor.record(scene.actor.wants("t", "m"))
    assert scene.registry.states("t") == [State.CLAIMED]


# -- who was fenced meanwhile -------------------------------------------------------


def fenced(scene: Scene, *before: Record) -> None:
    """The worker is declared lost while the registry is away for it alone."""
    worker = scene.registry.worker(scene.actor.fence.incarnation)
    assert scene.registry.store.declare_lost(worker.id, worker.counter, by="sweeper", evidence={})
    while scene.registry.store.close_lost(worker.id, by="sweeper").more:
        pass


def reborn(scene: Scene) -> Recording:
    """As the recorder does: what is late is kept, what runs goes on under a new fence."""
    over = scene.recording
    over.keep_late(NOW)
    scene.died()
    again = Actor(scene.registry.store)
    scene.recording = scene.begin(again.fence)
    scene.recording.inherit(over)
    return scene.recording


def test_a_worker_that_was_fenced_meanwhile_replays_what_it_let_run_as_somebody_new(scene: Scene) -> None:
    before = scene.actor.wants("before", "m1")
    scene.actor.record(before)
    scene.store.away = True
    meanwhile, still = scene.actor.wants("meanwhile", "m2"), scene.actor.wants("still", "m3")
    scene.says(meanwhile, still)
    scene.write()
    scene.says(finish(before, 80), finish(meanwhile, 81))
    scene.write()
    fenced(scene)
    scene.is_back()
    with pytest.raises(Fenced):
        scene.drain()
    reborn(scene)
    assert sorted(scene.drain()) == [(meanwhile.seq, "granted", 1), (still.seq, "granted", 1)]
    assert scene.registry.states("before") == [State.LOST]
    assert scene.registry.states("meanwhile") == [State.SUCCEEDED]
    assert scene.registry.states("still") == [State.CLAIMED]
    [late] = scene.registry.events("late_finish")
    assert (late.task_id, late.incarnation) == ("before", scene.actor.fence.incarnation)
    scene.says(finish(still, 82))
    scene.drain()
    assert scene.registry.states("still") == [State.SUCCEEDED]


def test_a_claim_that_was_committed_before_the_fence_is_fenced_with_it(scene: Scene) -> None:
    """Its reply was lost, so it was let run by the journal too; by then it was on record, and judged."""
    claim = scene.actor.wants("t", "m")
    scene.says(claim)
    scene.store.loses_reply = 1
    scene.write()
    fenced(scene)
    scene.is_back()
    with pytest.raises(Fenced):
        scene.drain()
    reborn(scene)
    assert scene.drain() == [(claim.seq, "overlap", 1)]
    assert scene.registry.states("t") == [State.LOST]
