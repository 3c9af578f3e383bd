"""SIGKILL of the recorder alone, at random moments, over a stream of short tasks."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from typing import NamedTuple

from tests.acceptance.watching import losses, messages_left
from tests.fleet import Fleet, Worker, wait_for

#: Messages kept waiting in the queue, so that the worker is never idle.
BACKLOG = 60


class Figures(NamedTuple):
    kills: int
    recorders: int  # that took over, the first one included; the others died before they could
    tasks_sent: int
    finished_once: int
    run_twice: int
    not_on_record: int
    losses_declared: int  # of incarnations and of attempts

    @property
    def nothing_harmed(self) -> bool:
        harmed = (self.run_twice, self.not_on_record, self.losses_declared)
        return harmed == (0, 0, 0) and self.finished_once == self.tasks_sent


class Stream:
    """Publishes late and early tasks in turn, from a thread, until told to stop."""

    def __init__(self, fleet: Fleet, seconds: float) -> None:
        self._fleet, self._seconds = fleet, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent: list[str] = []

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            if messages_left(self._fleet)[0] > BACKLOG:
                time.sleep(0.02)
                continue
            for name in ("late", "early") * 5:
                self.sent.append(self._fleet.send(name, len(self.sent), self._seconds).id)


def kill_recorders(
    fleet: Fleet, worker: Worker, kills: int, *, seed: int, task_seconds: float = 0.01
) -> Figures:
    """Kill the worker's recorder that many times; what became of the tasks."""
    chance = random.Random(seed)
    killed: set[int] = set()
    with Stream(fleet, task_seconds) as stream:
        wait_for("the stream runs", lambda: len(fleet.ends()) > 20)
        while len(killed) < kills:
            pid = wait_for(
                "another recorder", lambda: next((p for p in worker.recorders() if p not in killed), 0)
            )
            # From before its interpreter is up to well after it took over.
            time.sleep(chance.uniform(0, 1.2))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
    sent = set(stream.sent)
    wait_for("every task finished", lambda: {line.task_id for line in fleet.ends()} >= sent, 60)
    wait_for("no attempt left open", lambda: fleet.open_attempts() == 0, 60)
    wait_for("an empty broker", lambda: messages_left(fleet) == (0, 0), 60)
    times = Counter(line.task_id for line in fleet.starts())
    on_record = {
        str(row[0]) for row in fleet.rows("SELECT task_id FROM crisper_attempt WHERE state = 'succeeded'")
    }
    lost = int(fleet.rows("SELECT count(*) FROM crisper_recovery")[0][0])
    return Figures(
        kills=len(killed),
        recorders=int(fleet.rows("SELECT max(generation) FROM crisper_incarnation")[0][0]),
        tasks_sent=len(sent),
        finished_once=sum(times[id] == 1 for id in sent),
        run_twice=sum(times[id] > 1 for id in sent),
        not_on_record=len(sent - on_record),
        losses_declared=losses(fleet) + lost,
    )
