"""A steady stream of tasks, and what harm came to any of them: from their own ledger and the record."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

from tests.acceptance.random_kills import Kill, runs_of
from tests.acceptance.watching import losses
from tests.fleet import Fleet, Line, wait_for


class Steady:
    """Publishes so many tasks a second, late and early in turn, from a thread, until told to stop."""

    def __init__(
        self, fleet: Fleet, per_second: float = 30.0, *, seconds: float = 0.01, queue: str | None = None
    ) -> None:
        self._fleet, self._every, self._seconds = fleet, 1 / per_second, seconds
        self._options = {"queue": queue} if queue else {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent: dict[str, float] = {}  # task id: when it was published, by time.time()
        self.error = ""

    def __enter__(self) -> Steady:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "publishing hangs"
        assert not self.error, self.error

    def _run(self) -> None:
        began = time.monotonic()
        try:
            for count in itertools.count():
                if self._stop.wait(max(0.0, began + count * self._every - time.monotonic())):
                    return
                at = time.time()
                name = ("late", "early")[count % 2]
                self.sent[self._fleet.send(name, count, self._seconds, **self._options).id] = at
        except Exception as exc:
            self.error = repr(exc)


@dataclass
class Harm:
    """All of it is 0 where every promise was kept."""

    lost: int = 0  # published, and its body never came to its end
    ran_again: int = 0  # after its body had ended
    overlapped: int = 0  # two bodies at once
    not_on_record: int = 0  # without exactly one success
    left_open: int = 0
    declared: int = 0  # incarnations, where none died
    recoveries: int = 0  # of attempts, where none died
    errors: int = 0
    details: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) for f in fields(self) if f.name != "details")

    def __str__(self) -> str:
        return repr(self) if self else "no harm"


def harm_to(
    fleet: Fleet, sent: Iterable[str], kills: list[Kill] | None = None, *, seconds: float = 60.0
) -> Harm:
    """Wait, within that bound, until all of them are over; then judge. `kills`: of processes, in order.

    Where some were killed, recoveries and declared losses are no harm, and a body whose result was not
    stored yet may run again.
    """
    ids, kills = set(sent), kills or []
    harm = Harm()
    try:
        wait_for("all ended", lambda: {x.task_id for x in fleet.ends()} >= ids, seconds)
        wait_for("all on record", lambda: _on_record(fleet, ids), seconds)
        wait_for("no attempt left open", lambda: fleet.open_attempts() == 0, seconds)
    except AssertionError as exc:
        harm.details.append(str(exc))
    by_task: dict[str, list[Line]] = defaultdict(list)
    for line in fleet.ledger():
        by_task[line.task_id].append(line)
    for id in ids:
        _count_runs(harm, id, by_task[id], kills)
    _count_records(harm, fleet, ids, mortal=bool(kills))
    harm.errors = len(fleet.errors())
    harm.details += fleet.errors()[:5]
    return harm


def _count_runs(harm: Harm, id: str, lines: list[Line], kills: list[Kill]) -> None:
    runs = runs_of(lines, kills)
    if not any(run.finished for run in runs):
        harm.lost += 1
        harm.details.append(f"lost: {id} {lines}")
    for first, second in itertools.pairwise(runs):
        if second.start < first.end:
            harm.overlapped += 1
            harm.details.append(f"overlapped: {id} {runs}")
        elif first.stored or (first.finished and not kills):
            harm.ran_again += 1
            harm.details.append(f"ran again: {id} {runs}")


def _on_record(fleet: Fleet, ids: set[str]) -> bool:
    return not _wrong_on_record(fleet, ids)


def _wrong_on_record(fleet: Fleet, ids: set[str]) -> list[str]:
    """Those without exactly one success: by its outcome; or, where that died, by its result."""
    successes = Counter(
        str(id)
        for sql in (
            "SELECT task_id FROM crisper_attempt WHERE state = 'succeeded'",
            "SELECT task_id FROM crisper_recovery WHERE state = 'done' AND verdict = 'settled'",
        )
        for (id,) in fleet.rows(sql)
    )
    return [id for id in ids if successes[id] != 1]


def _count_records(harm: Harm, fleet: Fleet, ids: set[str], *, mortal: bool) -> None:
    wrong = _wrong_on_record(fleet, ids)
    harm.not_on_record = len(wrong)
    harm.details += [f"on record: {id} {fleet.attempts(id)}" for id in wrong[:5]]
    harm.left_open = fleet.open_attempts()
    if not mortal:
        harm.declared = losses(fleet)
        # What a worker that says goodbye still holds is brought back as well, and is no loss.
        lost = "SELECT count(*) FROM crisper_recovery WHERE cause <> 'shutdown'"
        harm.recoveries = int(fleet.rows(lost)[0][0])


@dataclass(frozen=True)
class Waits:
    """From publishing to the first line of the body, in milliseconds."""

    tasks: int
    p50: float
    p99: float

    def __str__(self) -> str:
        return f"{self.p50:.0f}/{self.p99:.0f} ms of {self.tasks}"


def waits(fleet: Fleet, sent: dict[str, float], since: float = 0.0, until: float = 1e12) -> Waits:
    """Of what was published in that time."""
    starts: dict[str, float] = {}
    for line in fleet.starts():
        starts.setdefault(line.task_id, line.at)
    took = sorted((starts[id] - at) * 1000 for id, at in sent.items() if since <= at < until and id in starts)
    if not took:
        return Waits(0, 0.0, 0.0)
    return Waits(len(took), took[len(took) // 2], took[min(len(took) - 1, int(len(took) * 0.99))])
