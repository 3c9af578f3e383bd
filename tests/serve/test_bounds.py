"""A page beside much history takes about as many steps as beside little: what it looks at is bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from crisper.engine import (
    deaths,
    failures,
    lanes,
    looking,
    queues,
    reading,
    selection,
    top,
    trail,
    usual,
)
from crisper.engine.filters import TASK_STATES, Filters
from crisper.engine.survey import Survey
from crisper.engine.trail import Wanted
from crisper.errors import RegistryError
from crisper.faces.cli import bulk
from crisper.store.migrate import upgrade
from tests import history

#: Attempts in a day, and days of history.
A_DAY, FEW_DAYS, MANY_DAYS = 1_000, 4, 40
RUNNING = 200
#: What a longer history adds: pages of the indexes.
TOLERANCE = 1.3
#: Looked at by one page, where a real one looks at thousands.
LOOKS = 500
#: In both histories it lost a task.
LIFE = "life-14-25"

Question = Callable[[Survey], Any]


def _tasks(**asked: Any) -> Question:
    return lambda survey: survey.tasks(Filters(**asked))


def _many(verb: str, *states: str, queue: str | None = None) -> Question:
    asked = bulk.question(verb, bulk.Asked(True, Filters(states, queue=queue), 100))._replace(counted=100)
    return lambda survey: selection.selection(survey.reading, asked)


def _became(survey: Survey) -> Any:
    lost = deaths.newest(survey.reading, 20)
    assert lost == sorted(lost, key=lambda one: one["ended_at"], reverse=True)
    return deaths.became(survey.reading, [one["id"] for one in lost])


def _events(which: Any, **asked: Any) -> Question:
    return lambda survey: which(survey.reading, Wanted(**asked), limit=50)


QUESTIONS: dict[str, Question] = {
    "status": lambda survey: survey.status(),
    "workers": lambda survey: survey.workers(),
    "top": lambda survey: top.top(survey.reading),
    "what became of the dead's": _became,
    "running now": lambda survey: usual.present(survey.reading, {}),
    "usual": lambda survey: usual.usual(survey.reading),
    "failures": lambda survey: failures.failures(survey.reading, since_ms=30 * history.DAY_MS),
    "timeline": lambda survey: lanes.lanes(survey.reading, since_ms=30 * history.DAY_MS),
    "queues": lambda survey: queues.queues(survey.reading),
    "newest tasks": _tasks(),
    **{f"tasks that are {word}": _tasks(states=(word,)) for word in ("held", "quarantined", "recovering")},
    **{f"tasks that are {word}": _tasks(states=(word,)) for word in ("running", "failed", "succeeded")},
    "a name that none has": _tasks(name="*nothing*"),
    "a queue that none is in": _tasks(queue="none"),
    "running in a queue that none is in": _tasks(states=("running",), queue="none"),
    "held, of a name that none has": _tasks(states=("held",), name="*nothing*"),
    "a worker that never was": _tasks(worker="none"),
    "tasks that a life lost": _tasks(lost_by=LIFE),
    "tasks that a life lost, of a name that none has": _tasks(lost_by=LIFE, name="*nothing*"),
    "tasks that a life lost and that failed": _tasks(lost_by=LIFE, states=("failed",)),
    "ids that begin so": lambda survey: survey.ids_like(history.task_id(7)[:8]),
    "one task": lambda survey: survey.task(history.task_id(400)),
    "to recover": _many("recover"),
    "to discard": _many("discard"),
    "to stop": _many("stop", queue="celery"),
    "trail of nobody": _events(trail.newest, by="nobody"),
    "trail of a rare kind": _events(trail.newest, kinds=("stop",)),
    "the trail on from its beginning": _events(trail.following, by="nobody"),
}


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A short one and a long one, of as many tasks a day."""
    folder, urls = tmp_path_factory.mktemp("histories"), []
    for days in (FEW_DAYS, MANY_DAYS):
        url = f"sqlite:///{folder}/{days}.db"
        upgrade(url)
        history.fill(url, days * A_DAY, RUNNING, published=10, days=days)
        urls.append(url)
    return urls


@pytest.mark.parametrize("asked", QUESTIONS)
def test_a_page_takes_as_many_steps_beside_a_long_history(
    histories: list[str], asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("looking.MOST", "lanes.MOST_BROUGHT_BACK", "failures.MOST", "deaths.MOST_HELD"):
        monkeypatch.setattr(f"crisper.engine.{place}", LOOKS // 100)
    monkeypatch.setattr(looking, "MOST", LOOKS)
    monkeypatch.setattr(usual, "NEWEST", LOOKS)
    monkeypatch.setattr(trail, "LOOKED_AT", LOOKS // 10)
    few, many = (_steps(url, QUESTIONS[asked]) for url in histories)
    assert many < TOLERANCE * few + 1000


def _steps(url: str, question: Question) -> int:
    """Of SQLite's machine."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 100
        return 0

    with closing(Survey(url)) as survey:
        survey.status()  # what is read once
        sa.event.listen(survey.reading._engine, "connect", lambda one, _: one.set_progress_handler(step, 100))
        question(survey)
    return steps


# -- what takes too long -------------------------------------------------------


@contextmanager
def _impatient(monkeypatch: pytest.MonkeyPatch, url: str) -> Iterator[Survey]:
    monkeypatch.setattr(reading, "STATEMENT_SECONDS", 0.05)
    with closing(Survey(url)) as survey:
        yield survey


def test_on_sqlite_too_a_question_that_takes_too_long_is_ended(
    histories: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n) SELECT count(*) FROM n"
    with (
        _impatient(monkeypatch, histories[0]) as survey,
        pytest.raises(RegistryError, match="took longer"),
        survey.reading.snapshot() as connection,
    ):
        connection.execute(sa.text(endless))


def test_a_question_in_time_is_answered(histories: list[str]) -> None:
    with closing(Survey(histories[0])) as survey:
        assert survey.status()["attempts"]["running"] == RUNNING


# -- and finds what there is ---------------------------------------------------


def test_what_few_tasks_are_is_found_however_old_it_is(histories: list[str]) -> None:
    """Where an index tells of them, they are all of them."""
    with closing(Survey(histories[1])) as survey:
        [counted] = [survey.status()["tasks"]]
        for word in ("held", "quarantined"):
            assert len(survey.tasks(Filters((word,)), limit=1000)["tasks"]) == counted[word]
        assert len(survey.tasks(Filters(("running",)), limit=1000)["tasks"]) == RUNNING


def test_what_a_life_lost_is_found_however_long_the_history(histories: list[str]) -> None:
    for url in histories:
        with closing(Survey(url)) as survey:
            assert len(survey.tasks(Filters(lost_by=LIFE))["tasks"]) == 1


def test_narrowing_leaves_nothing_out(tmp_path: Path) -> None:
    """Of every state that a task can be in, alone and beside others."""
    url = f"sqlite:///{tmp_path}/registry.db"
    upgrade(url)
    history.fill(url, 3_000, 20, published=0)
    engine = sa.create_engine(url)
    with closing(Survey(url)) as survey, pytest.MonkeyPatch.context() as patch:
        asked = [(word,) for word in TASK_STATES] + [("running", "held"), ("held", "recovering", "failed")]
        narrow = [_ids(survey, states) for states in asked]
        patch.setattr("crisper.engine.filters.narrowed", lambda *_: [])
        assert narrow == [_ids(survey, states) for states in asked]
    engine.dispose()


def _ids(survey: Survey, states: tuple[str, ...]) -> list[str]:
    return [one["task_id"] for one in survey.tasks(Filters(states), limit=1000)["tasks"]]


def test_a_trail_is_read_page_by_page_to_its_end(
    histories: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail, "LOOKED_AT", 7)
    with closing(Survey(histories[0])) as survey:
        whole = [
            one["id"] for page in trail.whole(survey.reading, Wanted(kinds=("verdict",))) for one in page
        ]
        assert len(whole) > 14
        assert _read(survey, trail.following, "after", "next") == whole
        assert _read(survey, trail.newest, "before", "older") == whole


def _read(survey: Survey, page: Any, asks: str, by: str) -> list[int]:
    found: list[int] = []
    cursor, before = None, object()
    while cursor != before:
        before = cursor
        answer = page(survey.reading, Wanted(kinds=("verdict",)), limit=3, **{asks: cursor})
        found += [one["id"] for one in answer["events"]]
        cursor = answer[by] or before
    return sorted(found)
