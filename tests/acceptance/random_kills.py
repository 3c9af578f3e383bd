"""SIGKILL at random moments over late and early tasks and chords, and what became of every one of them.

Everything is counted from the ledger that the tasks write, and from the results
that a caller would see. The registry is only asked whether a task was ever claimed.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import random
import signal
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from celery import chord
from redis import Redis

from tests.acceptance.asking import in_broker
from tests.acceptance.watching import is_running
from tests.fleet import Fleet, Line, wait_for

#: A task's body takes up to so many seconds.
LONGEST = 1.6
#: Between two kills, in seconds.
PAUSE = (0.3, 2.7)
SLOTS = 4
#: After the last kill: how long nothing may happen before what is missing counts as lost. Longer than
#: a lease, the grace for a redelivery, and the 30 s that the gate waits for a verdict.
QUIET_SECONDS = 75.0


class Kill(NamedTuple):
    """One moment, and the processes that died by it."""

    at: float
    victim: str
    pids: frozenset[int]


@dataclass
class Sent:
    """All that was published."""

    late: dict[str, int] = field(default_factory=dict)
    early: dict[str, int] = field(default_factory=dict)
    chords: dict[str, tuple[list[str], int]] = field(default_factory=dict)  # body: members, sum

    def ids(self) -> list[str]:
        return [*self.late, *self.early, *self.chords]


class Load:
    """Publishes in step with the kills, from a thread, so that something runs at each."""

    def __init__(self, fleet: Fleet, tasks: int, seed: int) -> None:
        self._fleet, self._tasks, self._chance = fleet, tasks, random.Random(seed)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._share, self._moved = 0.0, threading.Condition()
        self.sent, self.error = Sent(), ""

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.allow(1.0)
        self._thread.join(120)
        assert not self._thread.is_alive(), "publishing hangs"
        assert not self.error, self.error

    def allow(self, share: float) -> None:
        """So much of all may be published by now."""
        with self._moved:
            self._share = max(self._share, share)
            self._moved.notify()

    def _run(self) -> None:
        try:
            while (count := len(self.sent.ids())) < self._tasks:
                with self._moved:
                    while count >= self._share * self._tasks:
                        self._moved.wait()
                self._publish(count)
        except Exception as exc:
            self.error = repr(exc)

    def _publish(self, count: int) -> None:
        if count % 20 < 4:
            self._chord()
        else:
            for name in ("late", "early"):
                sent = self._fleet.send(name, count, self._seconds())
                getattr(self.sent, name)[sent.id] = count

    def _chord(self) -> None:
        """Every other one has an early member: where that is lost, the chord fails by policy."""
        tasks, kinds = self._fleet.app.tasks, ["late", "late", self._chance.choice(["late", "early"])]
        header = [tasks[f"tests.fleet_app.{kind}"].s(n, self._seconds()) for n, kind in enumerate(kinds)]
        body = chord(header)(tasks["tests.fleet_app.total"].s())
        members = [member.id for member in body.parent.results]
        for member, kind in zip(members, kinds, strict=True):
            getattr(self.sent, kind)[member] = 0
        self.sent.chords[body.id] = (members, sum(range(len(kinds))))

    def _seconds(self) -> float:
        return round(self._chance.uniform(0, LONGEST), 3)


class Killer:
    """Workers in slots; a victim's slot gets another of the same name at once, as from a supervisor."""

    def __init__(self, fleet: Fleet, seed: int, *, recorded: bool) -> None:
        self._fleet, self._chance, self._recorded = fleet, random.Random(seed), recorded
        self.workers = [fleet.worker(f"w{n}", wait=False) for n in range(SLOTS)]
        for worker in self.workers:
            worker.ready(60)
        self.kills: list[Kill] = []

    def strike(self) -> None:
        time.sleep(self._chance.uniform(*PAUSE))
        slot, victim = self._chance.randrange(SLOTS), self._chance.choice(("parent", "child", "both"))
        worker = self.workers[slot]
        pool, recorders = worker.pool(), worker.recorders()
        child = self._chance.choice(pool) if pool else 0
        if victim == "child" and child:
            self._kill(victim, [child], {child})
            return
        if victim == "both" and recorders and self._recorded:
            self._kill(victim, [*recorders, worker.pid], {*pool, worker.pid})
        else:
            self._kill("parent", [worker.pid], {*pool, worker.pid})
        worker.process.wait(10)
        # Its pid may be somebody else's from now on: nobody is to look after it any more.
        self._fleet.workers.remove(worker)
        self.workers[slot] = self._fleet.worker(worker.name, wait=False)

    def _kill(self, victim: str, targets: list[int], dead: set[int]) -> None:
        at = time.time()
        for pid in targets:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for("the killed are gone", lambda: not any(map(is_running, dead)))
        self.kills.append(Kill(at, victim, frozenset(dead)))


@dataclass
class Figures:
    """What became of all tasks. The lines below `broken` are promises."""

    seconds: float = 0.0
    kills_of_a_parent: int = 0
    kills_of_a_pool_child: int = 0
    kills_of_parent_and_recorder: int = 0
    #: A pool process that is killed while it starts: `Could not start worker processes`.
    workers_that_celery_ended: int = 0
    tasks: int = 0
    runs_cut_short: int = 0
    finished: int = 0
    failed_as_task_lost: int = 0  # acknowledged early, and running: by policy `auto`
    failed_by_celery_as_worker_lost: int = 0
    chords: int = 0
    chords_completed: int = 0
    chords_failed_as_task_lost: int = 0
    #: Redis: popped by kombu and not yet in `unacked` when its worker died. Nobody can know of it.
    lost_before_anybody_had_them: int = 0
    #: Redis: in `unacked`, and its claim died with parent and recorder. It comes back after the
    #: `visibility_timeout`, an hour: until then it could be in the hands of a worker without Crisper.
    read_and_not_claimed: int = 0
    chords_waiting_for_such_a_task: int = 0
    #: The body's last line was reached, its result was not stored yet.
    ended_but_not_stored_and_ran_again: int = 0
    # promises
    tasks_lost: int = 0
    late_tasks_failed: int = 0
    finished_bodies_run_again: int = 0
    overlapping_runs: int = 0
    chords_not_completed: int = 0
    wrong_results: int = 0
    attempts_left_open: int = 0
    errors_of_our_own: int = 0
    details: list[str] = field(default_factory=list)

    BROKEN = (
        "tasks_lost", "late_tasks_failed", "finished_bodies_run_again", "overlapping_runs",
        "chords_not_completed", "wrong_results", "attempts_left_open", "errors_of_our_own",
    )  # fmt: skip

    @property
    def kept_every_promise(self) -> bool:
        return not any(getattr(self, name) for name in self.BROKEN)


def kill_at_random(fleet: Fleet, kills: int, tasks: int, *, seed: int, plain: bool = False) -> Figures:
    """Workers killed so often over so many tasks; returns once nothing more happens."""
    began = time.monotonic()
    killer = Killer(fleet, seed, recorded=not plain)
    with Load(fleet, tasks, seed) as load:
        for n in range(kills):
            load.allow((n + 1) / kills)
            killer.strike()
    outcomes = _until_quiet(fleet, load.sent)
    figures = _judge(fleet, load.sent, killer.kills, outcomes, plain=plain)
    figures.seconds = round(time.monotonic() - began, 1)
    gc.collect()  # results say goodbye to their backend, which goes away after us
    return figures


# -- waiting ------------------------------------------------------------------


class Outcome(NamedTuple):
    """What a caller is told."""

    state: str
    value: Any


def _until_quiet(fleet: Fleet, sent: Sent) -> dict[str, Outcome]:
    """Until every task has its answer, or nothing has happened for long."""
    outcomes: dict[str, Outcome] = {}
    seen, quiet_since = (0, 0), time.monotonic()
    while True:
        for id in sent.ids():
            if id not in outcomes:
                meta = fleet.app.backend._get_task_meta_for(id)
                if meta["status"] in ("SUCCESS", "FAILURE"):
                    outcomes[id] = Outcome(meta["status"], meta["result"])
        now = (len(outcomes), len(fleet.ledger()))
        if now != seen:
            seen, quiet_since = now, time.monotonic()
        if len(outcomes) == len(sent.ids()) or time.monotonic() - quiet_since > QUIET_SECONDS:
            return outcomes
        time.sleep(0.5)


# -- judging ------------------------------------------------------------------


class Run(NamedTuple):
    """One run of a body, from the ledger; it ended or was cut short by a kill."""

    start: float
    end: float
    finished: bool
    stored: bool


def runs_of(lines: list[Line], kills: list[Kill]) -> list[Run]:
    """The runs of one task, in the order of their starts."""
    runs = []
    for line in lines:
        if line.event != "start":
            continue
        after = [x for x in lines if x.pid == line.pid and x.at >= line.at]
        nth = next((i for i, x in enumerate(after[1:], 1) if x.event == "start"), len(after))
        events = {x.event: x.at for x in after[1:nth]}
        died = min((kill.at for kill in kills if line.pid in kill.pids and kill.at >= line.at), default=None)
        broken_off = events.get("broken_off", died if died is not None else float("inf"))
        end = events.get("end", broken_off)
        runs.append(Run(line.at, end, "end" in events, "stored" in events))
    return sorted(runs)


def _judge(
    fleet: Fleet, sent: Sent, kills: list[Kill], outcomes: dict[str, Outcome], *, plain: bool
) -> Figures:
    figures = Figures(tasks=len(sent.ids()), chords=len(sent.chords))
    for kill in kills:
        kind = {"child": "a_pool_child", "parent": "a_parent", "both": "parent_and_recorder"}[kill.victim]
        setattr(figures, f"kills_of_{kind}", getattr(figures, f"kills_of_{kind}") + 1)
    _count_runs(figures, fleet, kills)
    unclaimed = _count_outcomes(figures, fleet, sent, outcomes, plain=plain)
    _count_chords(figures, sent, outcomes, unclaimed)
    if not plain:
        with contextlib.suppress(AssertionError):
            wait_for("no attempt left open", lambda: fleet.open_attempts() == 0, 60)
        figures.attempts_left_open = fleet.open_attempts()
        ours = [line for line in fleet.errors() if "internal error" in line]
        figures.details += ours
        figures.errors_of_our_own = len(ours)
    logs = {worker.log: worker.text() for worker in fleet.workers}.values()
    figures.workers_that_celery_ended = sum(text.count("Unrecoverable error") for text in logs)
    return figures


def _count_runs(figures: Figures, fleet: Fleet, kills: list[Kill]) -> None:
    by_task: dict[str, list[Line]] = defaultdict(list)
    for line in fleet.ledger():
        by_task[line.task_id].append(line)
    for id, lines in by_task.items():
        runs = runs_of(lines, kills)
        figures.runs_cut_short += sum(not run.finished for run in runs)
        for first, second in itertools.pairwise(runs):
            if second.start < first.end:
                figures.overlapping_runs += 1
                figures.details.append(f"overlap: {id} {runs}")
            elif first.stored:
                figures.finished_bodies_run_again += 1
                figures.details.append(f"ran again: {id} {runs}")
            elif first.finished:
                figures.ended_but_not_stored_and_ran_again += 1


def _count_outcomes(
    figures: Figures, fleet: Fleet, sent: Sent, outcomes: dict[str, Outcome], *, plain: bool
) -> set[str]:
    """Returns those that nobody ever claimed."""
    begun = {line.task_id for line in fleet.starts()}
    claimed = set() if plain else {str(row[0]) for row in fleet.rows("SELECT task_id FROM crisper_attempt")}
    redis = fleet.environment["FLEET_BROKER"].startswith("redis")
    held = _held_by_redis(fleet) if redis else set()
    nowhere = redis and not plain and in_broker(fleet) == len(held)
    unclaimed: set[str] = set()
    for id in [*sent.late, *sent.early]:
        outcome = outcomes.get(id)
        if outcome is None:
            if nowhere and id not in claimed | begun:
                unclaimed.add(id)
            else:
                figures.tasks_lost += 1
                figures.details.append(
                    f"lost: {id} {'late' if id in sent.late else 'early'}, {_story(fleet, id, plain)}"
                )
        elif outcome.state == "SUCCESS":
            figures.finished += 1
            expected = (sent.late | sent.early)[id]
            if expected and outcome.value != expected:
                figures.wrong_results += 1
        elif _is(outcome, "TaskLost"):
            figures.failed_as_task_lost += 1
            if id in sent.late:
                figures.late_tasks_failed += 1
                figures.details.append(f"late, failed: {id} {outcome.value}")
        else:
            figures.failed_by_celery_as_worker_lost += 1
    figures.read_and_not_claimed = len(unclaimed & held)
    figures.lost_before_anybody_had_them = len(unclaimed - held)
    return unclaimed


def _held_by_redis(fleet: Fleet) -> set[str]:
    """Task ids of what Redis keeps for workers, all of them dead by now or idle."""
    with Redis.from_url(fleet.environment["FLEET_BROKER"]) as client:
        entries: Any = client.hvals("unacked")
    return {json.loads(entry)[0]["headers"]["id"] for entry in entries}


def _count_chords(figures: Figures, sent: Sent, outcomes: dict[str, Outcome], unclaimed: set[str]) -> None:
    for body, (members, total) in sent.chords.items():
        outcome = outcomes.get(body)
        if outcome is not None and outcome.state == "SUCCESS":
            figures.finished += 1
            figures.chords_completed += 1
            figures.wrong_results += outcome.value != total
        elif outcome is not None and any(_is(outcomes.get(id), "TaskLost") for id in members):
            figures.chords_failed_as_task_lost += 1
        elif outcome is None and unclaimed & set(members):
            figures.chords_waiting_for_such_a_task += 1
        else:
            figures.chords_not_completed += 1
            states = {id: outcomes[id].state if id in outcomes else None for id in members}
            figures.details.append(f"chord: body {body} {outcome}, members {states}")


def _is(outcome: Outcome | None, error: str) -> bool:
    return outcome is not None and outcome.state == "FAILURE" and type(outcome.value).__name__ == error


def _story(fleet: Fleet, id: str, plain: bool) -> str:
    return f"ledger {[(x.event, x.pid, x.at) for x in fleet.ledger() if x.task_id == id]}" + (
        "" if plain else f", attempts {fleet.attempts(id)}, recoveries {fleet.recoveries(id)}"
    )
