"""Tasks are found by id, time and argument, from every registry alike, and no question scans all there is."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest

from crisper.core.preview import preview
from crisper.core.states import State
from crisper.engine.filters import LONGEST_ARGUMENT, Filters
from crisper.engine.moments import Moment, moment
from crisper.engine.survey import Survey
from crisper.errors import BadQuestion
from crisper.store import migrate
from crisper.store.open import open_store
from tests import places
from tests.faces.conftest import Run
from tests.faces.plans import plan_of
from tests.store.acting import Actor

HOUR = 3_600_000


class Past(NamedTuple):
    """Twelve tasks, the newest an hour old, each an hour older than the one before it."""

    url: str
    survey: Survey
    ids: list[str]


@contextmanager
def filled(url: str) -> Iterator[Past]:
    migrate.upgrade(url)
    with closing(open_store(url)) as store, closing(Survey(url)) as survey:
        actor, ids = Actor(store), []
        for hours in range(1, 13):
            id = str(uuid.uuid4())
            previews = {"args_preview": preview([hours, f"ann+{hours}@x.example"], redact=())}
            previews["kwargs_preview"] = preview({"password": "hunter2", "note": f'say "{hours}%_\\" é'})
            actor.ends(id, f"m{hours}", State.SUCCEEDED, age_ms=hours * HOUR, **previews)
            ids.append(id)
        yield Past(url, survey, ids)


@pytest.fixture(scope="session")
def sqlite_past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    with filled(f"sqlite:///{tmp_path_factory.mktemp('past')}/registry.db") as past:
        yield past


@pytest.fixture(scope="session")
def postgres_past(postgres_server: str) -> Iterator[Past]:
    with places.postgres_database(postgres_server) as url, filled(url) as past:
        yield past


@pytest.fixture(scope="session")
def mariadb_past(mariadb_server: str) -> Iterator[Past]:
    with places.mariadb_database(mariadb_server) as url, filled(url) as past:
        yield past


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def past(request: pytest.FixtureRequest) -> Past:
    """Only read, by any number of tests."""
    return request.getfixturevalue(f"{request.param}_past")


def found(past: Past, limit: int = 50, **asked: Any) -> list[str]:
    return [task["task_id"] for task in past.survey.tasks(Filters(**asked), limit=limit)["tasks"]]


# -- time --------------------------------------------------------------------


def test_times_bound_what_is_found_and_the_end_is_not_within(past: Past) -> None:
    assert found(past, since=moment("150m")) == past.ids[:2]
    assert found(past, until=moment("630m")) == past.ids[10:]
    assert found(past, since=moment("5h30m"), until=moment("2h30m")) == past.ids[2:5]
    told = past.survey.tasks(Filters())["tasks"]
    at = told[3]["received_at"]
    assert found(past, since=moment(at)) == past.ids[:4]
    assert found(past, until=moment(at)) == past.ids[4:]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("2h", Moment(2 * HOUR, True)),
        ("1d12h", Moment(36 * HOUR, True)),
        ("1970-01-02", Moment(24 * HOUR, False)),
        ("1970-01-01T01:00", Moment(HOUR, False)),
        ("1970-01-01 01:00:00.25Z", Moment(HOUR + 250, False)),
        ("1970-01-01T01:00+02:00", Moment(-HOUR, False)),
    ],
)
def test_a_time_is_an_age_or_a_moment_in_utc(text: str, told: Moment) -> None:
    assert moment(text) == told


@pytest.mark.parametrize(
    "text",
    ["yesterday", "2", "2025-02-31", "2025-13-01", "2025-01-01T25:00", "20250101", "0001-01-01T00:00+23:00",
     "١h", "2025-01-01T10:00 02:00", "-1h", "9" * 4000 + "h", ""],
)  # fmt: skip
def test_what_is_no_time_says_how_to_write_one(text: str) -> None:
    with pytest.raises(BadQuestion, match="2025-03-09T03:12"):
        moment(text)


# -- argument ----------------------------------------------------------------


def test_an_argument_is_found_as_it_is_recorded(past: Past) -> None:
    assert found(past, argument="ann+7@") == [past.ids[6]]
    assert found(past, argument="[7,") == [past.ids[6]]
    assert found(past, argument="ANN+7@") == []
    assert found(past, argument='7%_\\\\\\" é') == [past.ids[6]]
    assert found(past, argument="_nn+7@") == []
    assert found(past, argument="%") == past.ids


def test_what_was_redacted_is_not_found(past: Past) -> None:
    assert found(past, argument="hunter2") == []
    assert found(past, argument="[redacted]") == past.ids


def test_an_arguments_text_has_a_limit(past: Past) -> None:
    assert found(past, argument="x" * LONGEST_ARGUMENT) == []
    with pytest.raises(BadQuestion, match="200 characters"):
        found(past, argument="x" * (LONGEST_ARGUMENT + 1))


# -- id ----------------------------------------------------------------------


def test_a_task_is_found_by_its_id_or_the_beginning_of_it(past: Past) -> None:
    one = past.ids[4]
    assert found(past, id=one) == found(past, id=one[:6]) == found(past, id=one[:14]) == [one]
    assert found(past, id=one[:5]) == []
    assert found(past, id=one, argument="ann+6@") == []


# -- how far it looks --------------------------------------------------------


def test_a_question_that_no_index_answers_looks_at_so_many_and_says_how_far(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crisper.engine.looking.MOST", 5)
    told = past.survey.tasks(Filters())["tasks"]
    seen, cursor, looked = [], None, []
    while True:
        answer = past.survey.tasks(Filters(argument="ann+9@"), cursor=cursor)
        seen += [task["task_id"] for task in answer["tasks"]]
        looked.append(answer["looked_back_to"])
        cursor = answer["next"]
        if cursor is None:
            break
    assert seen == [past.ids[8]]
    assert looked == [told[5]["received_at"], told[10]["received_at"], None]


@pytest.mark.parametrize("asked", [{}, {"id": "whole"}, {"argument": "ann", "since": Moment(4 * HOUR, True)}])
def test_what_is_bounded_anyway_is_looked_at_in_whole(
    past: Past, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crisper.engine.looking.MOST", 5)
    asked = {**asked, "id": past.ids[11]} if "id" in asked else asked
    answer = past.survey.tasks(Filters(**asked))
    assert (answer["next"], answer["looked_back_to"]) == (None, None)
    assert answer["tasks"]


def test_a_full_page_goes_on_from_its_last_task(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crisper.engine.looking.MOST", 9)
    first = past.survey.tasks(Filters(argument="ann"), limit=4)
    assert first["looked_back_to"] is None
    second = past.survey.tasks(Filters(argument="ann"), limit=50, cursor=first["next"])
    assert [task["task_id"] for task in first["tasks"] + second["tasks"]] == past.ids


@pytest.mark.parametrize(
    ("asked", "looked_up"),
    [
        (
            "id",
            {
                "sqlite": "(task_id>? AND task_id<?)",
                "postgresql": "Index Cond: ((task_id >= ",
                "mysql": "'crisper_attempt', 'range'",
            },
        ),
        ("since", dict.fromkeys(("sqlite", "postgresql", "mysql"), "crisper_attempt_received")),
    ],
)
def test_an_id_and_a_time_are_looked_up_in_an_index(
    past: Past, asked: str, looked_up: dict[str, str]
) -> None:
    """So that ten million rows are no more than twelve."""
    by_id, by_time = Filters(id=past.ids[0][:8]), Filters(since=moment("90m"))
    plan = plan_of(past.survey.reading, by_id if asked == "id" else by_time)
    assert looked_up[past.survey.reading.dialect] in plan, plan


# -- the command line --------------------------------------------------------


def test_the_command_line_searches_too(past: Past, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--argument", "ann+2@", "--since", "3h", "--until", "1h30m", "--json"]
    answer = json.loads(run(past.url, "tasks", *words).stdout)
    assert [task["task_id"] for task in answer["tasks"]] == [past.ids[1]]
    by_id = json.loads(run(past.url, "tasks", "--id", past.ids[3][:8], "--json").stdout)
    assert [task["task_id"] for task in by_id["tasks"]] == [past.ids[3]]
    assert run(past.url, "tasks", "--since", "sometime").exit_code == 2
    monkeypatch.setattr("crisper.engine.looking.MOST", 5)
    looked = run(past.url, "tasks", "--argument", "ann+12@")
    hour = (datetime.now(UTC) - timedelta(hours=6)).strftime("%Y-%m-%d")
    assert f"looked back to {hour}" in looked.stderr
    assert "go on with --cursor" in looked.stdout
