"""Each guard taken out in turn: the simulator, or a law, must notice.

    python -m tests.simulation.mutations

Prints the table of `docs/safety.md`: the guard, what noticed, after how long. Ends with 1 if nothing noticed.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from crisper.core import gate
from crisper.core.lease import Observer
from crisper.core.model import Answer
from crisper.engine import journal
from crisper.engine.checkpoints import Checkpoints
from crisper.engine.journal import Journal
from crisper.engine.recording import Recording
from crisper.engine.running import Running
from crisper.store.memory import MemoryStore
from crisper.testing.simulate.pool import Pool
from crisper.testing.simulate.run import simulate
from tests.celery import test_dropped
from tests.engine import test_journal, test_recording, test_writer
from tests.store import test_incarnations, test_unheard
from tests.store.acting import MemoryRegistry

Mutate = Callable[[pytest.MonkeyPatch], None]


def no_fence(patch: pytest.MonkeyPatch) -> None:
    """A fenced incarnation's outcomes count."""
    known = MemoryStore._holds
    patch.setattr(
        MemoryStore, "_holds", lambda self, fence: known(self, fence) or fence.incarnation in self._workers
    )


def no_counter(patch: pytest.MonkeyPatch) -> None:
    """A worker is declared although it renewed meanwhile."""
    declare = MemoryStore.declare_lost

    def whatever(self: MemoryStore, id: str, counter: int, **how: Any) -> bool:
        worker = self._workers.get(id)
        return declare(self, id, worker.counter if worker else counter, **how)

    patch.setattr(MemoryStore, "declare_lost", whatever)


def no_full_observation(patch: pytest.MonkeyPatch) -> None:
    """A counter that stood still for half a second is silence."""
    patch.setattr(
        Observer,
        "silent",
        lambda self: {id: c.counter for id, c in self._chains.items() if c.last - c.since >= 0.5},
    )


def no_loss_budget(patch: pytest.MonkeyPatch) -> None:
    from crisper.core import verdict

    over = verdict.judge

    def judge(facts: Any) -> Any:
        return over(facts.__class__(**{**{n: getattr(facts, n) for n in facts.__slots__}, "losses": 0}))

    patch.setattr("crisper.celery.courier.judge", judge)


def finished_runs_again(patch: pytest.MonkeyPatch) -> None:
    """The gate forgets what has finished."""
    patch.setattr(gate, "_finished", lambda latest, is_copy: gate.Decision(gate.Ruling.GRANT))


def journal_is_not_replayed_first(patch: pytest.MonkeyPatch) -> None:
    """What the journal holds is thrown away when the registry is back."""
    patch.setattr(
        Recording, "_replay_some", lambda self, now: (self._clear() if self._replay else None, [])[1]
    )


def journal_is_not_on_the_disk(patch: pytest.MonkeyPatch) -> None:
    """Tasks are let run before their lines are safe."""
    append = Journal.append
    patch.setattr(Journal, "append", lambda self, lines, *, durable=True: append(self, lines, durable=False))


def redelivered_runs_unasked(patch: pytest.MonkeyPatch) -> None:
    init = Recording.__init__

    def relaxed(self: Recording, writer: Any, *args: Any, **kwargs: Any) -> None:
        writer.strict = False
        init(self, writer, *args, **kwargs)

    patch.setattr(Recording, "__init__", relaxed)


def unheard_is_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryStore, "_somebody_is_unheard", lambda self, me, renewing: False)


def no_generation(patch: pytest.MonkeyPatch) -> None:
    """A recorder that was replaced goes on writing."""

    def holds(self: MemoryStore, fence: Any) -> bool:
        worker = self._workers.get(fence.incarnation)
        return worker is not None and worker.state == "alive"

    patch.setattr(MemoryStore, "_holds", holds)


def successor_is_not_unique(patch: pytest.MonkeyPatch) -> None:
    """A second delivery is granted although the lost attempt's successor is open already."""
    known = gate._open

    def granted(latest: Any, newer: bool) -> gate.Decision:
        found = known(latest, newer)
        elsewhere = latest.owner is not gate.Owner.SELF
        return gate.Decision(gate.Ruling.GRANT) if elsewhere and latest.number > 1 else found

    patch.setattr(gate, "_open", granted)


def one_phase(patch: pytest.MonkeyPatch) -> None:
    """Attempts of workers that are not declared are closed as well."""
    patch.setattr(MemoryStore, "uncleared", lambda self: [w for w in self._workers.values() if not w.cleared])
    close = MemoryStore.close_lost

    def whoever(self: MemoryStore, id: str, *, by: str, limit: int = 500) -> Any:
        before = self._workers[id]
        self._change(id, state="lost")
        try:
            return close(self, id, by=by, limit=limit)
        finally:
            self._change(id, state=before.state, cleared=before.cleared)

    patch.setattr(MemoryStore, "close_lost", whoever)


def no_checksum(patch: pytest.MonkeyPatch) -> None:
    """A line is taken for whole whatever was flipped in it."""
    patch.setattr(journal.zlib, "crc32", lambda data: 0)


def no_connection_generation(patch: pytest.MonkeyPatch) -> None:
    """What was dropped with its connection is forgotten, and its answer not waited for."""
    from crisper.celery.deliveries import Deliveries

    def drop(self: Deliveries, held: Any, why: str) -> None:
        self._forget(held)

    patch.setattr(Deliveries, "_drop", drop)


def checkpoints_of_who_is_over(patch: pytest.MonkeyPatch) -> None:
    """A checkpoint counts although its attempt was closed, or its worker declared lost."""

    def save(self: MemoryStore, me: str, made: Any) -> Answer:
        for one in self._attempts[made.task_id]:
            if (one.incarnation, one.seq) == (me, made.claim_seq):
                self._checkpoints[made.task_id] = one.number, 0, made.data, made.preview
        return Answer(made.seq, "kept")

    patch.setattr(MemoryStore, "_save", save)


def no_checkpoint_for_the_next(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryStore, "_last_checkpoint", lambda self, task_id, number: "")


def durable_before_it_is_on_record(patch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a checkpoint is answered when it is heard."""
    save = Checkpoints.save

    def answered(self: Checkpoints, at: int, *made: Any) -> None:
        save(self, at, *made[:-1])
        if made[-1] is not None:
            made[-1]("registry")

    patch.setattr(Checkpoints, "save", answered)


def nobody_tells_of_the_unnoticed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Running, "look", lambda self, now, see, ticked: [])


def told_is_believed(patch: pytest.MonkeyPatch) -> None:
    """A process that its recorder does not see is buried, whatever waitid says."""
    patch.setattr(Pool, "is_nobody", lambda self, pid: True)


def given_back_is_delivered(patch: pytest.MonkeyPatch) -> None:
    """What a journal gave back ends the recovery that waits for a later delivery."""
    ruled = gate.ruled_later
    patch.setattr(
        "crisper.store.memory.claims.ruled_later",
        lambda decision, latest, *, given_back: ruled(decision, latest, given_back=False),
    )


#: Within a minute. Every guard that the simulator watches over is needed by one schedule of fifty, at least.
SEEDS = 1_000


class Mutation(NamedTuple):
    """A guard, how it is taken out, and who must notice: a law, or the simulator.

    A guard that few schedules need has a law: which schedules do changes with whatever the simulator runs.
    """

    guard: str
    mutate: Mutate
    law: Callable[[], None] | None = None

    @property
    def name(self) -> str:
        return self.mutate.__name__

    def caught_by(self) -> str | None:
        """What noticed; None if nothing did."""
        with pytest.MonkeyPatch.context() as patch:
            self.mutate(patch)
            if self.law is not None:
                return f"the law of {_words(self.law)}" if is_broken(self.law) else None
            for seed in range(1, SEEDS + 1):
                violations = simulate(seed)[0].violations
                if violations:
                    return f"seed {seed}: {violations[0].partition(':')[0]}"
        return None


def is_broken(law: Callable[[], None]) -> bool:
    try:
        law()
    except (AssertionError, ValueError, pytest.fail.Exception):
        return True
    return False


def _words(law: Callable[[], None]) -> str:
    return law.__name__.replace("_", " ")


def a_hung_predecessor() -> None:
    """Its registry takes nothing from it, and its writer learns that it was replaced."""
    test_incarnations.test_a_hung_predecessor_can_write_nothing(MemoryRegistry())
    test_writer.test_a_replaced_recorders_writer_can_write_nothing(MemoryRegistry())


def a_heartbeat_that_came_first() -> None:
    test_incarnations.test_declaring_loses_against_a_heartbeat_that_came_first(MemoryRegistry())


def what_a_journal_gave_back() -> None:
    with tempfile.TemporaryDirectory() as folder:
        test_recording.test_what_a_journal_gave_back_is_not_taken_for_the_delivery_that_a_later_loss_waits_for(
            test_recording.Scene(MemoryRegistry(), Path(folder)), 0
        )


def a_flipped_bit() -> None:
    with tempfile.TemporaryDirectory() as folder:
        test_journal.test_a_flipped_bit_costs_the_line_that_it_hit_and_none_behind_it(Path(folder))


def a_redelivery_while_it_is_away() -> None:
    with tempfile.TemporaryDirectory() as folder:
        scene = test_recording.Scene(MemoryRegistry(), Path(folder))
        test_recording.test_a_redelivered_message_waits_because_nobody_can_say_whether_it_has_finished(scene)


def a_redelivery_beside_the_unheard() -> None:
    registry = MemoryRegistry()
    test_unheard.test_it_waits_while_a_worker_of_its_scope_does_not_renew_and_runs_when_that_one_is_declared(
        registry
    )


def a_dropped_delivery() -> None:
    test_dropped.test_what_is_granted_after_its_connections_were_lost_is_released(1)


MUTATIONS = [
    Mutation("the fence in every write", no_fence),
    Mutation("the recorder's generation in the fence", no_generation, a_hung_predecessor),
    Mutation("the counter in a declaration", no_counter, a_heartbeat_that_came_first),
    Mutation("two phases: declared, then closed", one_phase),
    Mutation("a lease observed over its full length", no_full_observation),
    Mutation("one successor of a lost attempt", successor_is_not_unique),
    Mutation("the loss budget", no_loss_budget),
    Mutation("what has finished is refused", finished_runs_again),
    Mutation("the journal is replayed", journal_is_not_replayed_first),
    Mutation("the journal is on the disk before a task runs", journal_is_not_on_the_disk),
    Mutation(
        "a loss waits for what came after it, not for what a journal gave back",
        given_back_is_delivered,
        what_a_journal_gave_back,
    ),
    Mutation("the journal's checksum", no_checksum, a_flipped_bit),
    Mutation(
        "a redelivery waits while the registry is away",
        redelivered_runs_unasked,
        a_redelivery_while_it_is_away,
    ),
    Mutation(
        "and while somebody is not heard of", unheard_is_not_waited_for, a_redelivery_beside_the_unheard
    ),
    Mutation("the fence in a checkpoint", checkpoints_of_who_is_over),
    Mutation("a durable checkpoint is answered once it is safe", durable_before_it_is_on_record),
    Mutation("the next attempt is given the last checkpoint", no_checkpoint_for_the_next),
    Mutation("the end that a pool did not notice is told", nobody_tells_of_the_unnoticed),
    Mutation("and is believed only where waitid says so too", told_is_believed),
    Mutation("the generation of the broker's connection", no_connection_generation, a_dropped_delivery),
]


def main() -> int:
    survived = 0
    print("| guard | what notices | after |\n|---|---|---|")
    for mutation in MUTATIONS:
        began = time.monotonic()
        caught = mutation.caught_by()
        survived += caught is None
        after = time.monotonic() - began
        print(f"| {mutation.guard} | {caught or 'SURVIVED'} | {after:.1f} s |", flush=True)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
