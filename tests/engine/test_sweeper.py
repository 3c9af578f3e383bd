"""The sweeper: silence observed, death proven, many braked, one elected; and it may die at any step."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from crisper.core.states import State, WorkerState
from crisper.engine.heartbeat import Beat, Heartbeat
from crisper.engine.sweeper import Sweeper, Swept
from crisper.errors import RegistryUnreachable
from crisper.recorder.host import ThisHost
from crisper.recorder.witness import Process, boot_id, pid_namespace, process_start
from crisper.store.memory import MemoryStore
from tests.engine import stale
from tests.fleet import wait_for
from tests.store.acting import PULSE, Actor, MemoryRegistry, Registry, SqlRegistry, start

LEASE = 20.0


def sweeper(registry: Registry, me: str = "me", **how: object) -> Sweeper:
    return Sweeper(registry.another(), me, lease=LEASE, **how)  # type: ignore[arg-type]


def watch(sweepers: Sweeper | list[Sweeper], since: float, until: float, step: float = 1.0) -> list[Swept]:
    """Sweeps of one or of several, once per step, `until` included; of each the last."""
    group = sweepers if isinstance(sweepers, list) else [sweepers]
    now, last = since, [one.tick(since) for one in group]
    while now < until:
        now += step
        last = [one.tick(now) for one in group]
    return last


def renew(*actors: Actor) -> None:
    for actor in actors:
        assert actor.store.renew(actor.fence, PULSE)


# -- silence ------------------------------------------------------------------------


def test_a_worker_silent_for_a_full_lease_is_lost_and_its_attempts_close(registry: Registry) -> None:
    silent = registry.joins()
    silent.runs()
    [swept] = watch(sweeper(registry), 0, LEASE)
    assert [(judged.worker, judged.how) for judged in swept.declared] == [(silent.id, "silence")]
    assert (swept.closed, swept.more) == (1, False)
    assert registry.worker(silent.id).state is WorkerState.LOST
    assert registry.states("t") == [State.LOST]
    assert len(registry.recoveries("t")) == 1


def test_one_second_earlier_it_is_not(registry: Registry) -> None:
    silent = registry.joins()
    silent.runs()
    [swept] = watch(sweeper(registry), 0, LEASE - 1)
    assert not swept.did_anything
    assert registry.states("t") == [State.RUNNING]


def test_one_heartbeat_begins_the_wait_anew(memory_registry: MemoryRegistry) -> None:
    alive = memory_registry.joins()
    one = sweeper(memory_registry)
    watch(one, 0, LEASE - 1)
    renew(alive)
    [swept] = watch(one, LEASE, 2 * LEASE - 1)
    assert not swept.did_anything
    assert one.silent_for(alive.id) == LEASE - 1


def test_a_gap_longer_than_a_quarter_of_the_lease_begins_it_anew(memory_registry: MemoryRegistry) -> None:
    """A paused sweeper has seen nothing of what happened in the pause."""
    memory_registry.joins()
    paused = sweeper(memory_registry)
    watch(paused, 0, LEASE - 1)
    [swept] = watch(paused, LEASE - 1 + LEASE / 4 + 0.1, 2 * LEASE)
    assert not swept.did_anything


def test_a_gap_of_a_quarter_does_not(memory_registry: MemoryRegistry) -> None:
    memory_registry.joins()
    [swept] = watch(sweeper(memory_registry), 0, LEASE, step=LEASE / 4)
    assert len(swept.declared) == 1


def test_an_outage_of_the_registry_declares_nobody(memory_registry: MemoryRegistry) -> None:
    class Away(MemoryStore):
        away = False

        def alive(self):  # type: ignore[no-untyped-def]
            if self.away:
                raise RegistryUnreachable("it is away")
            return super().alive()

    memory_registry.store = store = Away(clock=lambda: memory_registry.now)
    worker = memory_registry.joins()
    one = sweeper(memory_registry)
    watch(one, 0, LEASE - 1)
    store.away = True
    with pytest.raises(RegistryUnreachable):
        one.tick(LEASE)
    store.away = False
    [swept] = watch(one, LEASE + 60, 2 * LEASE + 59)
    assert not swept.did_anything
    renew(worker)


def test_a_heartbeat_that_comes_while_it_is_being_declared_wins(memory_registry: MemoryRegistry) -> None:
    """The last look and the declaration are two transactions; the second repeats what the first saw."""

    class Between(MemoryStore):
        def term(self, name):  # type: ignore[no-untyped-def]
            renew(worker)
            return super().term(name)

    memory_registry.store = Between(clock=lambda: memory_registry.now)
    worker = memory_registry.joins()
    worker.runs()
    one = sweeper(memory_registry, election=False)
    watch(one, 0, LEASE - 1)
    raced = sweeper(memory_registry)
    raced._observer = one._observer  # it has seen the same
    swept = raced.tick(LEASE)
    assert swept.silent == 1
    assert swept.declared == ()
    assert memory_registry.states("t") == [State.RUNNING]


# -- two phases ---------------------------------------------------------------------


def test_what_a_sweeper_declared_and_did_not_live_to_close_the_next_one_closes(registry: Registry) -> None:
    dead = registry.joins()
    dead.runs()
    dead.is_declared()  # and here its sweeper died
    swept = sweeper(registry).tick(0)
    assert (swept.declared, swept.closed) == ((), 1)
    assert registry.states("t") == [State.LOST]
    assert sweeper(registry).tick(0).closed == 0


def test_attempts_left_open_by_a_goodbye_are_closed_and_not_counted(registry: Registry) -> None:
    left = registry.joins()
    left.runs()
    assert registry.store.say_goodbye(left.fence, reason="shutdown")
    assert sweeper(registry).tick(0).closed == 1
    assert not registry.attempt("t").counted


# -- proof --------------------------------------------------------------------------


@pytest.fixture
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def here(pid: int) -> dict[str, object]:
    """Where and what a worker of that pid on this very host is."""
    return {
        "boot_id": boot_id(),
        "pid_namespace": pid_namespace(),
        "pid": pid,
        "pid_start": process_start(pid),
    }


def test_a_worker_whose_process_is_gone_is_lost_at_once(
    registry: Registry, sleeping: subprocess.Popen[bytes]
) -> None:
    dead = registry.joins(**here(sleeping.pid))
    dead.runs()
    one = sweeper(registry, host=ThisHost())
    assert not one.tick(0).did_anything
    sleeping.kill()
    sleeping.wait()
    swept = one.tick(0.1)
    assert [judged.how for judged in swept.declared] == ["process gone"]
    assert registry.states("t") == [State.LOST]


def test_whose_process_is_gone_needs_no_election(
    memory_registry: MemoryRegistry, sleeping: subprocess.Popen[bytes]
) -> None:
    assert memory_registry.store.campaign("sweeper", "somebody else", None)
    memory_registry.joins(**here(sleeping.pid))
    sleeping.kill()
    sleeping.wait()
    swept = sweeper(memory_registry, host=ThisHost()).tick(0)
    assert (swept.leads, len(swept.declared)) == (False, 1)


@pytest.mark.parametrize("elsewhere", [{"pid_namespace": "pid:[2]"}, {"boot_id": "another"}])
def test_of_another_container_or_host_nothing_is_proven(
    memory_registry: MemoryRegistry, sleeping: subprocess.Popen[bytes], elsewhere: dict[str, object]
) -> None:
    memory_registry.joins(**{**here(sleeping.pid), **elsewhere})
    sleeping.kill()
    sleeping.wait()
    assert not sweeper(memory_registry, host=ThisHost()).tick(0).did_anything


def test_a_pid_that_is_used_again_is_not_that_worker(
    memory_registry: MemoryRegistry, sleeping: subprocess.Popen[bytes]
) -> None:
    memory_registry.joins(**{**here(sleeping.pid), "pid_start": 1})
    assert len(sweeper(memory_registry, host=ThisHost()).tick(0).declared) == 1


def test_what_its_attempts_still_run_in_is_stopped_before_it_is_declared(
    registry: Registry, sleeping: subprocess.Popen[bytes]
) -> None:
    dead = registry.joins(**here(sleeping.pid) | {"pid_start": 1})
    claim = dead.claims()
    dead.record(start(claim, sleeping.pid)._replace(pid_start=process_start(sleeping.pid) or 0))
    assert len(sweeper(registry, host=ThisHost()).tick(0).declared) == 1
    assert sleeping.wait(5) == -signal.SIGKILL


def test_a_dead_workers_own_recorder_goes_first(
    memory_registry: MemoryRegistry, sleeping: subprocess.Popen[bytes]
) -> None:
    """It knows more; but only for a moment, because it may hang."""
    dead = memory_registry.joins(**here(sleeping.pid) | {"pid_start": 1})
    started = process_start(sleeping.pid) or 0
    memory_registry.store.renew(dead.fence, PULSE._replace(recorder_pid=sleeping.pid, recorder_start=started))
    one = sweeper(memory_registry, host=ThisHost())
    assert not one.tick(0).did_anything
    assert not one.tick(0.9).did_anything
    assert len(one.tick(1.0).declared) == 1


# -- the brake ----------------------------------------------------------------------


def test_many_silent_at_once_wait_for_a_second_full_observation(memory_registry: MemoryRegistry) -> None:
    silent = [memory_registry.joins() for _ in range(6)]
    alive = [memory_registry.joins() for _ in range(4)]
    warned: list[str] = []
    one = sweeper(memory_registry, warn=warned.append)
    now = -1.0
    while now < 2 * LEASE - 1:
        now += 1
        renew(*alive)
        swept = one.tick(now)
        assert swept.declared == ()
        assert swept.braked == (now == LEASE)
    renew(*alive)
    swept = one.tick(2 * LEASE)
    assert {judged.worker for judged in swept.declared} == {actor.id for actor in silent}
    assert len(warned) == 1
    assert "6 workers" in warned[0]
    store = memory_registry.store
    assert [event.data for event in store.events() if event.kind == "brake"] == [{"silent": 6, "alive": 10}]


def test_two_of_ten_are_declared_at_once(memory_registry: MemoryRegistry) -> None:
    silent = [memory_registry.joins() for _ in range(2)]
    alive = [memory_registry.joins() for _ in range(8)]
    one = sweeper(memory_registry)
    for now in range(int(LEASE) + 1):
        renew(*alive)
        swept = one.tick(now)
    assert {judged.worker for judged in swept.declared} == {actor.id for actor in silent}
    assert not swept.braked


def test_many_that_come_back_during_the_second_look_are_not_declared(memory_registry: MemoryRegistry) -> None:
    workers = [memory_registry.joins() for _ in range(5)]
    one = sweeper(memory_registry)
    assert watch(one, 0, LEASE)[0].braked
    renew(*workers)
    [swept] = watch(one, LEASE + 1, 2 * LEASE)
    assert swept.declared == ()


def test_the_brake_does_not_hold_what_is_proven(memory_registry: MemoryRegistry) -> None:
    for _ in range(6):
        memory_registry.joins(**{**here(os.getpid()), "pid_start": 1})
    assert len(sweeper(memory_registry, host=ThisHost()).tick(0).declared) == 6


# -- the election -------------------------------------------------------------------


def test_one_of_three_leads_and_only_it_declares_silence(registry: Registry) -> None:
    registry.joins()
    three = [sweeper(registry, name) for name in "abc"]
    swept = watch(three, 0, LEASE)
    assert [one.leads for one in swept] == [True, False, False]
    assert [len(one.declared) for one in swept] == [1, 0, 0]


def test_a_lost_leader_does_not_double_the_wait(registry: Registry) -> None:
    """Leader and worker fall silent together, as with their common host; the successor has seen both."""
    registry.joins()
    leader, follower = sweeper(registry, "leader"), sweeper(registry, "follower")
    leader.tick(0)
    [swept] = watch(follower, 0, LEASE - 1)
    assert (swept.leads, swept.declared) == (False, ())
    swept = follower.tick(LEASE)
    assert (swept.leads, len(swept.declared)) == (True, 1)


def test_a_leader_that_wakes_after_its_term_does_not_lead(memory_registry: MemoryRegistry) -> None:
    leader, follower = sweeper(memory_registry, "leader"), sweeper(memory_registry, "follower")
    leader.tick(0)
    watch(follower, 0, LEASE)
    assert [leader.tick(LEASE).leads, follower.tick(LEASE).leads] == [False, True]


# -- many at once -------------------------------------------------------------------


def one_successor_each(registry: SqlRegistry, count: int) -> None:
    """Every lost attempt has one recovery and was declared lost by one event."""
    [(lost,)] = registry.rows("SELECT count(*) FROM crisper_attempt WHERE state = 'lost'")
    [(recoveries,)] = registry.rows("SELECT count(*) FROM crisper_recovery WHERE state = 'pending'")
    [(events,)] = registry.rows("SELECT count(*) FROM crisper_event WHERE kind = 'lost'")
    assert (lost, recoveries, events) == (count, count, count)


def populate(registry: SqlRegistry, workers: int, tasks: int) -> list[str]:
    """Workers of no process at all, each with so many running attempts."""
    ids = []
    for w in range(workers):
        actor = registry.joins(**{**here(os.getpid()), "pid_start": 1})
        claims = [actor.wants(f"t{w}-{n}", f"m{w}-{n}") for n in range(tasks)]
        actor.record(*claims, *[start(claim, 0) for claim in claims])
        ids.append(actor.id)
    return ids


def test_three_sweepers_at_once_give_each_lost_attempt_one_recovery(shared: SqlRegistry) -> None:
    populate(shared, workers=6, tasks=100)
    together = threading.Barrier(3)
    swept: list[Swept] = []

    def sweep(name: str) -> None:
        store = shared.another()
        one = Sweeper(store, name, lease=LEASE, host=ThisHost())
        together.wait()
        swept.extend(one.tick(n / 10) for n in range(3))

    threads = [threading.Thread(target=sweep, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one.closed for one in swept) == 600
    assert sum(len(one.declared) for one in swept) == 6
    one_successor_each(shared, 600)


SWEEPING = """
import sys, time
from crisper.engine import sweeper
from crisper.errors import RegistryUnreachable
from crisper.recorder.host import ThisHost
from crisper.store.open import open_store
sweeper.BATCH = 5
one = sweeper.Sweeper(open_store(sys.argv[1]), sys.argv[2], lease=20, host=ThisHost())
print("ready", flush=True)
while True:
    try:
        one.tick(time.monotonic())
    except RegistryUnreachable:  # somebody was paused who had SQLite's lock
        pass
"""


def test_three_sweepers_paused_and_killed_at_any_moment_give_each_one_recovery(shared: SqlRegistry) -> None:
    workers, tasks = 12, 100
    populate(shared, workers, tasks)
    dice, started = random.Random(2), []
    paused: list[tuple[float, subprocess.Popen[str]]] = []

    def another() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SWEEPING, shared.url, f"s{len(started)}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    def closed() -> int:
        while paused and time.monotonic() - paused[0][0] > 1.0:
            paused.pop(0)[1].send_signal(signal.SIGCONT)
        with contextlib.suppress(RegistryUnreachable):  # one that is paused may have SQLite's lock
            [(count,)] = shared.rows("SELECT count(*) FROM crisper_attempt WHERE state = 'lost'")
            return int(count)
        return 0

    sweeping = [another() for _ in range(3)]
    try:
        for process in sweeping:
            assert process.stdout is not None
            process.stdout.readline()
        for _ in range(12):
            victim = dice.choice(sweeping)
            before = closed()
            victim.send_signal(signal.SIGSTOP if dice.random() < 0.4 else signal.SIGKILL)
            sweeping.remove(victim)
            paused.append((time.monotonic(), victim))
            sweeping.append(another())
            if before < workers * tasks:
                wait_for("somebody goes on", lambda seen=before: closed() > seen, 30)  # type: ignore[misc]
        wait_for("all are closed", lambda: closed() == workers * tasks, 30)
    finally:
        for process in started:
            process.kill()
            process.communicate()
    one_successor_each(shared, workers * tasks)


def test_a_thousand_stale_attempts_are_closed_by_one_sweep_in_flat_memory(shared: SqlRegistry) -> None:
    """Ten thousand, and what the live workers notice of it: bench/stale_attempts.py."""
    stale.leave_open(shared.url, 1000)
    swept = stale.sweep(shared.url)
    assert (swept["declared"], swept["closed"], swept["more"]) == (1, 1000, False)
    assert swept["rss_max"] - swept["rss_before"] < 4.0
    one_successor_each(shared, 1000)


def test_a_process_that_is_no_more_is_not_waited_for() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert Process(process.pid, 1).wait(0)


# -- a very long task ---------------------------------------------------------------


def test_an_attempt_of_a_day_is_never_declared_and_costs_in_its_last_hour_what_it_did_in_its_first(
    memory_registry: MemoryRegistry,
) -> None:
    clock = 0.0
    worker = memory_registry.joins()
    worker.runs()
    heartbeat = Heartbeat(
        worker.store, worker.fence, lease=LEASE, interval=4.0, parent_stopped=lambda: False,
        pulse=lambda: PULSE, clock=lambda: clock,
    )  # fmt: skip
    sweepers = [sweeper(memory_registry, me) for me in ("one", "two")]
    written, renewals = len(memory_registry.all_events()), []
    for _ in range(24):
        before = memory_registry.worker(worker.id).counter
        for _ in range(3600):
            if clock % 4 == 0:
                assert heartbeat.tick() is Beat.RENEWED
            for one in sweepers:
                assert not one.tick(clock).did_anything
            clock += 1.0
            memory_registry.now += 1000
        renewals.append(memory_registry.worker(worker.id).counter - before)
    assert renewals == [900] * 24
    assert len(memory_registry.all_events()) == written
    assert memory_registry.states("t") == [State.RUNNING]
