"""The questions people ask, answered from every registry alike."""

from __future__ import annotations

from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, insert, literal, select

from crisper.core.states import RecoveryState, State, VerdictKind, task_state
from crisper.engine.filters import TASK_STATES, Filters, cursor_of, in_state, place_of
from crisper.engine.moments import age_ms
from crisper.engine.survey import Survey
from crisper.errors import BadQuestion, RegistryUnreachable, SchemaMissing, SchemaOutdated, SchemaTooNew
from crisper.store import migrate, schema
from crisper.store.open import open_store
from tests.faces.scene import HOSTILE, INJECTIONS, Scene, new_id
from tests.schema import set_revision
from tests.servers import PrivatePostgres
from tests.store.acting import Actor

EVERY_STATE = {
    "running": "running",
    "claimed": "claimed",
    "quarantined": "quarantined",
    "held": "held",
    "not kept": "held",
    "recovering": "recovering",
    "failed by policy": "failed",
    "settled": "settled",
    "discarded": "discarded",
    "recovered": "succeeded",
    **{
        word: word
        for word in ("succeeded", "failed", "retried", "rejected", "revoked", "expired", "released")
    },
}


def ids(answer: dict[str, list[dict[str, str]]]) -> set[str]:
    return {task["task_id"] for task in answer["tasks"]}


def counts(answer: dict[str, Any]) -> dict[str, int]:
    left_out = ("versions", "wedged", "silent", "stalled", "journal_bytes")
    return {word: count for word, count in answer["workers"].items() if word not in left_out}


# -- status and workers ------------------------------------------------------


def test_status_counts_what_is_on_record(survey: Survey, read_scene: Scene) -> None:
    answer = survey.status()
    assert counts(answer) == {"alive": 1, "suspect": 0, "lost": 1, "gone": 1, "errors": 0}
    assert answer["attempts"] == {"claimed": 1, "running": 1}
    assert answer["tasks"] == {"quarantined": 1, "held": 2, "lost_24h": 8, "recovered_24h": 1}
    assert sum(answer["workers"]["versions"].values()) == 1
    assert set(answer["registry"]) == {"id", "url", "database", "schema", "now"}
    assert answer["sweeper"]["leader"] == read_scene.one.id
    assert answer["sweeper"]["worker"] == "celery@one"
    assert answer["sweeper"]["recoveries_under_way"] == 1


def test_a_worker_silent_for_half_its_lease_is_suspect(empty_url: str) -> None:
    with closing(open_store(empty_url)) as store, closing(Survey(empty_url)) as survey:
        Actor(store)
        with store.db.write():
            store.db.run("UPDATE crisper_incarnation SET seen_at = seen_at - 9000")
        assert counts(survey.status()) == {"alive": 1, "suspect": 0, "lost": 0, "gone": 0, "errors": 0}
        assert survey.workers()["workers"][0]["state"] == "alive"
        with store.db.write():
            store.db.run("UPDATE crisper_incarnation SET seen_at = seen_at - 2000")
        assert counts(survey.status()) == {"alive": 0, "suspect": 1, "lost": 0, "gone": 0, "errors": 0}
        assert survey.workers()["workers"][0]["state"] == "suspect"


def test_workers_tell_what_they_are_and_on_what_evidence_they_were_lost(survey: Survey) -> None:
    one, *others = survey.workers()["workers"]
    assert one["hostname"] == "celery@one"
    assert (one["state"], one["open_attempts"], one["ended_at"]) == ("alive", 2, None)
    assert (one["pool"], one["concurrency"], one["queues"]) == ("prefork", 8, ["celery", "mail"])
    assert one["version"] == "0.1.0"
    lost = next(worker for worker in others if worker["state"] == "lost")
    assert lost["evidence"] == {"how": "silence", "by": "sweeper"}


def test_a_worker_that_ended_long_ago_is_shown_only_on_request(empty_url: str) -> None:
    with closing(open_store(empty_url)) as store, closing(Survey(empty_url)) as survey:
        Actor(store).is_lost()
        with store.db.write():
            store.db.run("UPDATE crisper_incarnation SET ended_at = ended_at - 90000000")
        assert survey.workers()["workers"] == []
        assert len(survey.workers(everything=True)["workers"]) == 1


# -- tasks -------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY_STATE)
def test_a_task_is_found_under_its_state_and_no_other(survey: Survey, read_scene: Scene, name: str) -> None:
    task_id = read_scene.ids[name]
    found = [word for word in TASK_STATES if task_id in ids(survey.tasks(Filters((word,))))]
    assert found == [EVERY_STATE[name]]
    story = survey.task(task_id)
    assert story is not None
    assert story["state"] == EVERY_STATE[name]


def test_the_states_in_sql_are_the_states_of_the_core() -> None:
    """Every combination that could be on record, not only those that moves lead to."""
    engine = create_engine("sqlite://")
    schema.metadata.create_all(engine)
    attempt, recovery = schema.attempt, schema.recovery
    combinations = [(state, None, None) for state in State]
    combinations += [(State.LOST, *pair) for pair in product(RecoveryState, (None, *VerdictKind))]
    fill = {column.name: "x" if column.type.python_type is str else 0 for column in attempt.c}
    filled = {column.name: "x" if column.type.python_type is str else 0 for column in recovery.c}
    with engine.begin() as connection:
        for index, (state, its, verdict) in enumerate(combinations):
            row = {"task_id": str(index), "number": 1}
            unique = {"incarnation": str(index), "body": None}
            connection.execute(insert(attempt).values({**fill, **row, **unique, "state": state.value}))
            if its is not None:
                values = {**filled, **row, "state": its.value, "verdict": verdict and verdict.value}
                connection.execute(insert(recovery).values(values))
        joined = attempt.join(recovery, recovery.c.task_id == attempt.c.task_id, isouter=True)
        for word in TASK_STATES:
            question = select(attempt.c.task_id).select_from(joined).where(in_state(word))
            found = {int(id) for id in connection.execute(question).scalars()}
            assert found == {i for i, one in enumerate(combinations) if task_state(*one) == word}


def test_every_filter_narrows(survey: Survey, read_scene: Scene) -> None:
    known = read_scene.ids
    assert ids(survey.tasks(Filters(name="shop.char*"))) == {known["running"]}
    assert ids(survey.tasks(Filters(name="shop.hel?"))) == {known["held"]}
    assert ids(survey.tasks(Filters(queue="mail"))) == {known["running"]}
    assert known["held"] in ids(survey.tasks(Filters(worker="celery@two")))
    assert known["running"] not in ids(survey.tasks(Filters(worker="celery@two")))
    assert ids(survey.tasks(Filters(worker=read_scene.one.id))) == ids(
        survey.tasks(Filters(worker="celery@one"))
    )
    assert survey.tasks(Filters(older_than_ms=3_600_000))["tasks"] == []
    assert ids(survey.tasks(Filters(states=("held", "running")))) == {
        known["held"], known["not kept"], known["running"]
    }  # fmt: skip


def test_a_name_matches_whole_and_by_case_on_every_database(survey: Survey) -> None:
    assert survey.tasks(Filters(name="SHOP.CHARGE"))["tasks"] == []
    assert survey.tasks(Filters(name="charge"))["tasks"] == []
    assert len(survey.tasks(Filters(name="shop.charge"))["tasks"]) == 1


def test_older_than_counts_from_the_registry_s_clock(empty_url: str) -> None:
    with closing(open_store(empty_url)) as store, closing(Survey(empty_url)) as survey:
        Actor(store).claims(age_ms=600_000)
        assert len(survey.tasks(Filters(older_than_ms=599_000))["tasks"]) == 1
        assert survey.tasks(Filters(older_than_ms=660_000))["tasks"] == []


def test_pages_join_without_gap_or_repetition(survey: Survey) -> None:
    whole = [task["task_id"] for task in survey.tasks(limit=1000)["tasks"]]
    for limit in (1, 3, len(whole)):
        paged, cursor = [], None
        while True:
            page = survey.tasks(limit=limit, cursor=cursor)
            paged += [task["task_id"] for task in page["tasks"]]
            cursor = page["next"]
            if cursor is None:
                break
            assert len(page["tasks"]) == limit
        assert paged == whole


def test_tasks_received_in_the_same_millisecond_are_paged_by_id(empty_url: str) -> None:
    with closing(open_store(empty_url)) as store, closing(Survey(empty_url)) as survey:
        actor = Actor(store)
        actor.record(*(actor.wants(new_id(), new_id()) for _ in range(7)))
        first = survey.tasks(limit=4)
        second = survey.tasks(limit=4, cursor=first["next"])
        assert len(ids(first) | ids(second)) == 7
        assert second["next"] is None


# -- hostile questions -------------------------------------------------------


@pytest.mark.parametrize("text", INJECTIONS)
def test_a_hostile_filter_finds_nothing_and_harms_nothing(survey: Survey, text: str) -> None:
    before = survey.tasks(limit=1000)["tasks"]
    for filters in (Filters(worker=text), Filters(queue=text)):
        assert survey.tasks(filters)["tasks"] == []
    try:
        assert survey.tasks(Filters(name=text))["tasks"] == []
    except BadQuestion:
        assert len(text) > 512
    assert survey.task(text) is None
    assert survey.standing(text) is None
    assert survey.ids_like(text) == []
    assert survey.events(task_id=text, kinds=[text])["events"] == []
    assert survey.tasks(limit=1000)["tasks"] == before


@pytest.mark.parametrize("text", INJECTIONS)
def test_a_hostile_cursor_is_refused(survey: Survey, text: str) -> None:
    with pytest.raises(BadQuestion):
        survey.tasks(cursor=text)
    with pytest.raises(BadQuestion):
        survey.events(after=text)


@pytest.mark.parametrize(
    "cursor",
    ["", "e30", "W10", "MQ", "x" * 20000, cursor_of(1), cursor_of("1", "a"), cursor_of(True, "a"),
     cursor_of(1, 2), cursor_of(2**70, "a"), cursor_of(1.5, "a"), cursor_of(1, "a\0"), cursor_of(1, "a", 3)],
)  # fmt: skip
def test_a_cursor_that_is_not_ours_is_refused(cursor: str) -> None:
    with pytest.raises(BadQuestion, match="no cursor of ours"):
        place_of(cursor)


def test_a_cursor_comes_back_as_it_was() -> None:
    assert place_of(cursor_of(1_700_000_000_000, "é/+=")) == (1_700_000_000_000, "é/+=")


@pytest.mark.parametrize("limit", [0, -1, 1001, 10**12])
def test_a_limit_out_of_bounds_is_refused(survey: Survey, limit: int) -> None:
    with pytest.raises(BadQuestion, match="between 1 and 1000"):
        survey.tasks(limit=limit)


def test_an_unknown_state_is_refused_with_those_there_are(survey: Survey) -> None:
    with pytest.raises(BadQuestion, match=r"'lots'.*quarantined"):
        survey.tasks(Filters(states=("lots",)))


def test_a_pattern_that_would_never_end_is_refused(survey: Survey) -> None:
    with pytest.raises(BadQuestion, match="6 stars"):
        survey.tasks(Filters(name="*a*a*a*a*a*a*a*b"))


@pytest.mark.parametrize(
    ("text", "ms"), [("90s", 90_000), ("10m", 600_000), ("1d12h", 129_600_000), ("0s", 0)]
)
def test_an_age_is_read(text: str, ms: int) -> None:
    assert age_ms(text) == ms


@pytest.mark.parametrize("text", ["", "10", "m", "-5m", "1.5h", "10 m", "10y", "٣m", "1h\n", "9" * 400 + "s"])
def test_what_is_no_age_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadQuestion, match="10m"):
        age_ms(text)


def test_the_greatest_age_is_still_a_number_the_database_knows(survey: Survey) -> None:
    assert survey.tasks(Filters(older_than_ms=age_ms("999999999w" * 30)))["tasks"] == []


# -- one task ----------------------------------------------------------------


def test_the_story_of_a_recovered_task(survey: Survey, read_scene: Scene) -> None:
    story = survey.task(read_scene.ids["recovered"])
    assert story is not None
    assert (story["args_preview"], story["kwargs_preview"]) == ([42, "x"], {"currency": "EUR"})
    assert [(a["number"], a["state"], a["worker"]) for a in story["attempts"]] == [
        (1, "lost", "celery@two"),
        (2, "succeeded", "celery@one"),
    ]
    assert [(v["attempt"], v["verdict"], v["decided_by"]) for v in story["verdicts"]] == [
        (1, "resend", "celery@one")
    ]
    assert story["verdicts"][0]["evidence"] == {"losses": 1, "acks_late": True}
    assert [(r["attempt"], r["action"], r["state"]) for r in story["recoveries"]] == [(1, "resend", "done")]
    assert story["recoveries"][0]["sent_at"] is not None
    assert [(e["kind"], e["attempt"]) for e in story["events"]] == [
        ("lost", 1),
        ("verdict", 1),
        ("recovered", 1),
    ]


def test_every_verdict_stays_in_the_story_not_only_the_last(survey: Survey, read_scene: Scene) -> None:
    story = survey.task(read_scene.ids["discarded"])
    assert story is not None
    assert [v["verdict"] for v in story["verdicts"]] == ["hold", "discard"]
    assert story["verdicts"][1]["decided_by"] == "ann@desk"


def test_events_are_read_in_order_and_on_from_a_cursor(survey: Survey) -> None:
    first = survey.events(kinds=["verdict"], limit=5)
    rest = survey.events(kinds=["verdict"], after=first["next"])
    assert len(first["events"]) == 5
    assert len(rest["events"]) == 4
    assert survey.events(after=rest["next"], kinds=["verdict"]) == {"events": [], "next": rest["next"]}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_on_record_and_found(empty_url: str, name: str) -> None:
    with closing(open_store(empty_url)) as store, closing(Survey(empty_url)) as survey:
        actor = Actor(store)
        actor.claims(name, "m", name=name)
        story = survey.task(name)
        assert story is not None
        assert survey.tasks()["tasks"][0]["name"] == story["name"]


def test_ids_are_found_by_their_beginning(survey: Survey, read_scene: Scene) -> None:
    task_id = read_scene.ids["held"]
    assert survey.ids_like(task_id[:8]) == [task_id]
    assert survey.ids_like(task_id[:5]) == []


# -- what it is asked of -----------------------------------------------------


def test_nothing_can_be_written_through_a_survey(survey: Survey) -> None:
    with (
        pytest.raises(RegistryUnreachable, match=r"(?i)read[- ]?only"),
        survey.reading.snapshot() as connection,
    ):
        connection.execute(schema.event.delete().where(literal(True)))


def test_a_missing_file_is_not_created(tmp_path: Path) -> None:
    with (
        closing(Survey(f"sqlite:///{tmp_path}/none.db")) as survey,
        pytest.raises(SchemaMissing, match="crisper migrate"),
    ):
        survey.status()
    assert list(tmp_path.iterdir()) == []


def test_a_database_without_the_schema_says_what_to_run(postgres_database: str) -> None:
    with closing(Survey(postgres_database)) as survey, pytest.raises(SchemaMissing, match="crisper migrate"):
        survey.tasks()


@pytest.mark.parametrize(("version", "error"), [("0000", SchemaOutdated), ("9999", SchemaTooNew)])
def test_another_schema_is_refused(empty_url: str, version: str, error: type[Exception]) -> None:
    set_revision(empty_url, version)
    with closing(Survey(empty_url)) as survey, pytest.raises(error):
        survey.status()


def test_a_file_that_is_no_database_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_text("dear diary " * 100)
    unreadable = pytest.raises(RegistryUnreachable, match="not a database")
    with closing(Survey(f"sqlite:///{tmp_path}/registry.db")) as survey, unreadable:
        survey.status()


def test_a_server_that_stands_still_is_given_up(own_postgres: PrivatePostgres) -> None:
    """Paused in the middle of a question; its own timeouts do not fire then."""
    migrate.upgrade(own_postgres.url)
    given_up = pytest.raises(RegistryUnreachable)
    with closing(Survey(own_postgres.url, hangs_after=1.0)) as survey:
        survey.status()
        with given_up, survey.reading.snapshot() as connection:
            own_postgres.pause()
            connection.execute(select(schema.event.c.id))


def test_a_server_that_is_down_is_a_sentence_without_the_password() -> None:
    down = pytest.raises(RegistryUnreachable, match="Check crisper_registry_url")
    with closing(Survey("postgresql://ann:hunter2@127.0.0.1:1/db")) as survey, down as told:
        survey.status()
    assert "hunter2" not in str(told.value)
