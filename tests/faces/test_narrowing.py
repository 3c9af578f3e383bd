"""Questions are led to the few rows that an index tells of, and find there what all rows would have told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa

from crisper.core.states import State, VerdictKind
from crisper.engine import selection
from crisper.engine.filters import Filters
from crisper.engine.survey import Survey
from crisper.store import migrate
from crisper.store.schema import attempt, recovery
from tests import history
from tests.faces.plans import plan_of
from tests.store.acting import KEPT, SqlRegistry


@pytest.fixture
def registry(empty_url: str) -> Iterator[SqlRegistry]:
    with closing(SqlRegistry(empty_url)) as registry:
        yield registry


def recovering(registry: SqlRegistry) -> list[str]:
    with closing(Survey(registry.url)) as survey:
        return [one["task_id"] for one in survey.tasks(Filters(("recovering",)))["tasks"]]


def followed(registry: SqlRegistry) -> list[bool]:
    rows = registry.rows("SELECT followed_at FROM crisper_recovery ORDER BY task_id, number")
    return [at is not None for (at,) in rows]


def lost_and_sent_again(registry: SqlRegistry, task_id: str) -> None:
    worker = registry.joins()
    worker.runs(task_id, f"m-{task_id}", message=KEPT)
    worker.is_lost()
    decided = registry.decided(task_id, VerdictKind.RESEND)
    assert registry.store.complete(decided, by="courier", data={})


def test_what_was_sent_again_is_recovering_until_it_is_claimed(registry: SqlRegistry) -> None:
    lost_and_sent_again(registry, "t1")
    lost_and_sent_again(registry, "t2")
    assert sorted(recovering(registry)) == ["t1", "t2"]
    assert followed(registry) == [False, False]
    registry.joins().runs("t1", "m-t1")
    assert recovering(registry) == ["t2"]
    assert followed(registry) == [True, False]


def test_what_comes_back_before_it_was_decided_is_marked_too(registry: SqlRegistry) -> None:
    worker = registry.joins()
    worker.runs("t", "m", message=KEPT)
    worker.is_lost()
    registry.nobody_decides()
    registry.joins().claims("t", "m", redelivered=True)
    assert followed(registry) == [True]
    assert recovering(registry) == []


def test_an_older_crisper_that_does_not_mark_them_is_seen_through(registry: SqlRegistry) -> None:
    lost_and_sent_again(registry, "t")
    registry.joins().runs("t", "m-t")
    with registry.store.db.write():
        registry.store.db.run("UPDATE crisper_recovery SET followed_at = NULL")
    assert recovering(registry) == []


def test_an_upgrade_marks_what_is_back_already(registry: SqlRegistry) -> None:
    lost_and_sent_again(registry, "t1")
    lost_and_sent_again(registry, "t2")
    registry.joins().runs("t1", "m-t1")
    script = migrate.sql(registry.url, "0009")
    [marking] = [one for one in script.split(";") if "UPDATE crisper_recovery" in one]
    with registry.store.db.write():
        registry.store.db.run("UPDATE crisper_recovery SET followed_at = NULL")
        registry.store.db.run(marking.partition("--")[0])
    assert followed(registry) == [True, False]


def test_a_task_that_was_lost_twice_counts_once_and_again_after_a_day(registry: SqlRegistry) -> None:
    for task_id in ("once", "twice", "twice", "long ago too", "long ago too"):
        lost_and_sent_again(registry, task_id)
    with registry.store.db.write():
        registry.store.db.run(
            "UPDATE crisper_recovery SET created_at = created_at - 90000000, done_at = done_at - 90000000"
            " WHERE task_id = 'long ago too' AND number = 1"
        )
    with closing(Survey(registry.url)) as survey:
        counted = survey.status()["tasks"]
    assert (counted["lost_24h"], counted["recovered_24h"]) == (3, 3)
    with registry.store.db.write():
        registry.store.db.run("UPDATE crisper_recovery SET created_at = 0, done_at = 0 WHERE number = 1")
    with closing(Survey(registry.url)) as survey:
        counted = survey.status()["tasks"]
    assert (counted["lost_24h"], counted["recovered_24h"]) == (2, 2)


# -- what a life lost ------------------------------------------------------------


def lost_by(registry: SqlRegistry, life: str, *states: str, **more: Any) -> set[str]:
    with closing(Survey(registry.url)) as survey:
        return {one["task_id"] for one in survey.tasks(Filters(states, lost_by=life), **more)["tasks"]}


def test_what_a_life_lost_is_found_wherever_it_went_since(registry: SqlRegistry) -> None:
    one, two = registry.joins(), registry.joins()
    for id in ("came back", "waits", "lost again"):
        one.runs(id, f"m-{id}", message=KEPT)
    one.ends("went well", "m-went well", State.SUCCEEDED)
    two.runs("of another", "m-of another", message=KEPT)
    one.is_lost()
    registry.nobody_decides()
    two.ends("came back", "m-came back", State.SUCCEEDED, redelivered=True)
    two.runs("lost again", "m-lost again", message=KEPT, redelivered=True)
    two.is_lost()
    assert lost_by(registry, one.id) == {"came back", "waits", "lost again"}
    assert lost_by(registry, one.id, "succeeded") == {"came back"}
    assert lost_by(registry, two.id) == {"of another", "lost again"}
    assert lost_by(registry, "nobody") == lost_by(registry, "\x00") == set()


def test_what_a_life_lost_is_looked_up_in_whole_and_in_an_index(
    registry: SqlRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crisper.engine.looking.MOST", 1)
    worker = registry.joins()
    for n in range(4):
        worker.runs(f"t{n}", f"m{n}", message=KEPT)
    worker.is_lost()
    asked = Filters(("recovering", "failed"), name="*", lost_by=worker.id)
    with closing(Survey(registry.url)) as survey:
        answer = survey.tasks(asked)
        assert ({one["task_id"] for one in answer["tasks"]}, answer["looked_back_to"]) == (
            {"t0", "t1", "t2", "t3"},
            None,
        )
        plan = plan_of(survey.reading, Filters(lost_by=worker.id))
    assert ("(incarnation=?)" if "sqlite" in registry.url else "crisper_event_once") in plan, plan
    assert "crisper_attempt_received" not in plan, plan


def test_many_are_chosen_by_who_lost_them(registry: SqlRegistry) -> None:
    one, two = registry.joins(), registry.joins()
    one.runs("t1", "m1", message=KEPT)
    two.runs("t2", "m2", message=KEPT)
    one.is_lost()
    registry.decided("t1", VerdictKind.HOLD)
    two.is_lost()
    registry.decided("t2", VerdictKind.HOLD)
    asked = selection.Asked(Filters(("held", "failed"), lost_by=one.id), 9, kept=True)
    with closing(Survey(registry.url)) as survey:
        chosen = selection.selection(survey.reading, asked)
    assert ([task.task_id for task in chosen.tasks], chosen.matching) == (["t1"], 1)


# -- the first few ---------------------------------------------------------------

_ASKED = (
    *(Filters((word,)) for word in ("running", "claimed", "failed", "revoked", "discarded")),
    *(Filters(("running", "claimed")), Filters(("failed", "revoked")), Filters(("running", "failed"))),
    *(Filters(("running",), name="shop.tasks.m*"), Filters(("failed",), queue="mail")),
)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def past(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Survey]:
    from tests import places

    folder = tmp_path_factory.mktemp("past")
    if request.param == "sqlite":
        yield from _filled(f"sqlite:///{folder}/registry.db")
    else:
        with places.postgres_database(request.getfixturevalue("postgres_server")) as url:
            yield from _filled(url)


def _filled(url: str) -> Iterator[Survey]:
    """Some that run are stopped already, some were received at the same moment, and one has run on."""
    migrate.upgrade(url)
    history.fill(url, 4_000, 60, published=0)
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.NullPool)
    open_ones = attempt.c.state == State.RUNNING.value
    with engine.begin() as connection:
        coarse = attempt.c.received_at - attempt.c.received_at % 90
        connection.execute(sa.update(attempt).where(open_ones).values(received_at=coarse))
        claimed = sa.update(attempt).where(open_ones, attempt.c.seq % 7 == 3)
        connection.execute(claimed.values(state=State.CLAIMED.value, started_at=None))
        assert connection.execute(sa.select(sa.func.count()).select_from(recovery)).scalar_one() == 20
    engine.dispose()
    with closing(Survey(url)) as survey:
        yield survey


@pytest.mark.parametrize("filters", _ASKED, ids=str)
def test_page_by_page_the_first_few_are_those_that_all_would_have_told(
    past: Survey, filters: Filters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crisper.engine.ages.FEW", (1, 2))
    few = _pages(past, filters), _oldest(past, filters)
    monkeypatch.setattr("crisper.engine.ages.FEW", ())
    assert few == (_pages(past, filters), _oldest(past, filters))
    assert len(set(few[0])) == len(few[0])


def _pages(survey: Survey, filters: Filters) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        answer = survey.tasks(filters, limit=7, cursor=cursor)
        found += [one["task_id"] for one in answer["tasks"]]
        cursor = answer["next"]
        if cursor is None:
            return found


def _oldest(survey: Survey, filters: Filters) -> list[str]:
    asked = selection.Asked(filters, 9, unordered=True, counted=20)
    return [one.task_id for one in selection.selection(survey.reading, asked).tasks]
