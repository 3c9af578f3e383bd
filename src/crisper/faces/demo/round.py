"""One round: orders arrive, a busy worker is killed, orders go on arriving, and what became of each."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crisper.faces.cli.text import plural
from crisper.faces.demo.app import PACKING_SECONDS, registry_url
from crisper.faces.demo.ledger import Ledger, Line
from crisper.faces.demo.stage import DemoFailed, Stage, Worker
from crisper.faces.demo.telling import Telling

if TYPE_CHECKING:
    from crisper.engine.survey import Survey

TASKS = 12
BEFORE_THE_KILL = 6
#: Between two orders: before the kill a little longer than the broker's polling, so that both get some.
SPACING, SPACING_AFTER = 0.12, 0.5
#: Bodies this close to their end are not killed: their result may be on its way already.
LEAVE_ALONE_SECONDS = 0.8
#: After everything else has ended: time for what is lost to come back, and for anything to run again.
WATCH_SECONDS = 3.0
FINISH_SECONDS = 30.0


@dataclass(frozen=True)
class Result:
    """What became of the orders, by the tasks' own ledger."""

    tasks: int
    completed: int
    lost: int
    run_twice: int
    interrupted: list[str]  # task ids that the killed worker had begun and not ended
    ran_again: dict[str, float]  # of these: seconds from the kill to the next start
    story: dict[str, Any] | None = None


class Round:
    """One round on its stage."""

    def __init__(self, stage: Stage, telling: Telling) -> None:
        self._stage, self._telling = stage, telling
        self._order_of: dict[str, int] = {}  # by task id
        self._survey: Survey | None = None

    def play(self) -> Result:
        stage, telling = self._stage, self._telling
        telling.say("two workers start")
        stage.start_workers("first", "second")
        with ExitStack() as stack:
            if stage.with_crisper:
                from crisper.engine.survey import Survey

                self._survey = stack.enter_context(closing(Survey(registry_url(stage.folder))))
                self._survey.status()
            telling.say(f"{TASKS} orders arrive one by one; packing one takes {PACKING_SECONDS:g} s")
            worker = self._find_a_busy_worker()
            killed_at = worker.kill()
            interrupted = [line.task_id for line in stage.ledger().running().get(worker.name, [])]
            its_orders = {id: self._order_of[id] for id in interrupted}
            telling.killed(worker.name, worker.process.pid, killed_at, its_orders, self._who_says())
            self._publish(TASKS - len(self._order_of), SPACING_AFTER)
            self._watch_to_the_end()
            return self._result(killed_at, interrupted)

    def _publish(self, orders: int, spacing: float) -> None:
        for _ in range(orders):
            order = len(self._order_of) + 1
            self._order_of[self._stage.publish(order)] = order
            next_at = time.monotonic() + spacing
            self._stage.wait("the next order", lambda at=next_at: time.monotonic() >= at, 60, self._show)  # type: ignore[misc]

    def _show(self) -> None:
        self._telling.progress(self._stage.ledger(), self._order_of)

    # -- who is busy ----------------------------------------------------------

    def _find_a_busy_worker(self) -> Worker:
        """Orders arrive until the evidence shows a worker in mid-work."""
        orders = BEFORE_THE_KILL
        while len(self._order_of) + orders <= TASKS:
            self._publish(orders, SPACING)
            self._stage.wait("the orders to begin", self._all_begun, FINISH_SECONDS, self._show)
            if name := self._stage.poll(self._evidence, PACKING_SECONDS, self._show):
                return self._stage.worker(name)
            orders = 2
        raise DemoFailed("no worker could be seen in mid-work; is this machine very busy?")

    def _all_begun(self) -> bool:
        return self._stage.ledger().begun() == set(self._order_of)

    def _who_says(self) -> str:
        return "the registry" if self._survey else "the tasks' own ledger"

    def _evidence(self) -> str | None:
        """The busiest worker that can be killed in mid-work: by the tasks' own word, and with Crisper
        once the registry too shows it running all of that."""
        for name, lines in self._stage.ledger().running().items():
            in_mid_work = max(time.time() - line.at for line in lines) < PACKING_SECONDS - LEAVE_ALONE_SECONDS
            if in_mid_work and {line.task_id for line in lines} <= self._on_record(name, lines):
                return name
        return None

    def _on_record(self, worker: str, lines: list[Line]) -> set[str]:
        from crisper.engine.filters import Filters

        if self._survey is None:
            return {line.task_id for line in lines}
        shown = self._survey.tasks(Filters(states=("running",), worker=worker))["tasks"]
        return {task["task_id"] for task in shown}

    # -- the end --------------------------------------------------------------

    def _watch_to_the_end(self) -> None:
        """Until nothing has moved for long enough to call lost what has not ended, and done what has."""
        quiet_since, lines = time.monotonic(), -1

        def over() -> bool:
            nonlocal quiet_since, lines
            ledger = self._stage.ledger()
            was, lines = lines, len(ledger.lines)
            if lines != was or self._stage.alive() & ledger.running().keys():
                quiet_since = time.monotonic()
            return time.monotonic() - quiet_since >= WATCH_SECONDS

        self._stage.wait("the orders to end", over, FINISH_SECONDS + PACKING_SECONDS * TASKS, self._show)

    def _result(self, killed_at: float, interrupted: list[str]) -> Result:
        ledger = self._stage.ledger()
        ended = ledger.ended()
        ran_again = {id: again for id in interrupted if (again := _again(ledger, id, killed_at)) is not None}
        lost = len(self._order_of.keys() - ended.keys())
        self._telling.say(
            f"nothing has moved for {WATCH_SECONDS:g} s: {plural(lost, 'order')} lost",
            style="red" if lost else "green",
        )
        return Result(
            tasks=len(self._order_of),
            completed=len(self._order_of) - lost,
            lost=lost,
            run_twice=sum(times > 1 for times in ended.values()),
            interrupted=interrupted,
            ran_again=ran_again,
            story=self._survey.task(min(ran_again, key=self._order_of.__getitem__))
            if self._survey and ran_again
            else None,
        )


def _again(ledger: Ledger, task_id: str, killed_at: float) -> float | None:
    later = [line.at - killed_at for line in ledger.starts(task_id) if line.at > killed_at]
    return round(min(later), 2) if later else None
