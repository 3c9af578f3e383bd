"""Questions share a connection, and no question fails because one has died between two of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy import text

from crisper.engine import kept
from crisper.engine.survey import Survey
from crisper.errors import RegistryUnreachable
from crisper.store import migrate
from tests.servers import PrivatePostgres

_ITS_ID = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}
_END = {"postgresql": "SELECT pg_terminate_backend({})", "mysql": "KILL {}"}


@pytest.fixture(params=["postgres", "mariadb"])
def survey(request: pytest.FixtureRequest) -> Iterator[Survey]:
    url = request.getfixturevalue(f"{request.param}_database")
    migrate.upgrade(url)
    with closing(Survey(url)) as survey:
        yield survey


def connection_of(survey: Survey) -> int:
    with survey.reading.snapshot() as connection:
        return int(connection.execute(text(_ITS_ID[survey.reading.dialect])).scalar_one())


def test_the_next_question_is_asked_over_the_same_connection(survey: Survey) -> None:
    assert connection_of(survey) == connection_of(survey)


def test_two_questions_at_once_have_a_connection_each(survey: Survey) -> None:
    opened = [survey.reading._engine.connect() for _ in range(kept.MOST + 2)]
    assert len({one.connection.driver_connection for one in opened}) == kept.MOST + 2
    for one in opened:
        one.close()


def test_after_an_error_the_next_question_sees_a_clean_connection(survey: Survey) -> None:
    first = connection_of(survey)
    with pytest.raises(RegistryUnreachable), survey.reading.snapshot() as connection:
        connection.execute(text("SELECT no_such_column"))
    assert survey.tasks()["tasks"] == []
    assert connection_of(survey) == first


def test_one_that_was_ended_by_its_server_is_replaced_unseen(survey: Survey) -> None:
    first = connection_of(survey)
    with closing(Survey(survey.reading._url)) as another, another.reading.snapshot() as connection:
        connection.execute(text(_END[survey.reading.dialect].format(first)))
    assert survey.tasks()["tasks"] == []
    assert connection_of(survey) != first


def test_one_that_was_idle_for_long_is_not_used_again(
    survey: Survey, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = connection_of(survey)
    monkeypatch.setattr(kept, "IDLE_SECONDS", -1.0)
    assert connection_of(survey) != first


def test_a_kept_one_whose_server_stands_still_is_given_up_at_once(
    own_postgres: PrivatePostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next question, when it goes on, is answered."""
    migrate.upgrade(own_postgres.url)
    monkeypatch.setattr("crisper.engine.reading.CONNECT_SECONDS", 2)
    with closing(Survey(own_postgres.url)) as survey:
        survey.status()
        own_postgres.pause()
        with pytest.raises(RegistryUnreachable):
            survey.status()
        own_postgres.resume()
        assert survey.status()["workers"]["alive"] == 0
