"""docs/howto/roles.md, as it stands there: a role that may read and write rows is enough for everything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.pool import NullPool

from crisper.core.states import State, VerdictKind
from crisper.engine.survey import Survey
from crisper.store import migrate
from tests import places
from tests.store.acting import SCOPE, SqlRegistry

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "roles.md"


class Roles:
    """Of one database; their names are this test's own, for they are the whole server's."""

    def __init__(self, admin: str) -> None:
        self.admin = make_url(admin)
        self.mark = f"crisper_{uuid4().hex[:8]}"
        first, then = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.S)
        self.run(first)
        options = {"options": f"-crole={self.mark}_owner"}
        migrate.upgrade(self.admin.update_query_dict(options).render_as_string(hide_password=False))
        self.run(then)

    def run(self, statements: str) -> None:
        named = re.sub(r"\bcrisper(?=_owner|_reader|[ ,;])", self.mark, statements)
        with self.connected(self.admin.render_as_string(hide_password=False)) as connection:
            for statement in filter(str.strip, named.split(";\n")):
                connection.execute(text(statement))

    def url(self, role: str, password: str) -> str:
        url = self.admin.set(username=f"{self.mark}{role}", password=password)
        return url.render_as_string(hide_password=False)

    @staticmethod
    def connected(url: str) -> Connection:
        return create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool).connect()

    def drop(self) -> None:
        with self.connected(self.admin.render_as_string(hide_password=False)) as connection:
            for role in ("", "_reader", "_owner"):
                connection.execute(text(f"DROP OWNED BY {self.mark}{role}"))
                connection.execute(text(f"DROP ROLE {self.mark}{role}"))


@pytest.fixture
def roles(postgres_server: str) -> Iterator[Roles]:
    with places.postgres_database(postgres_server) as url:
        roles = Roles(url)
        yield roles
        roles.drop()


def refused(url: str, statement: str) -> None:
    denied = r"permission denied|must be owner"
    with Roles.connected(url) as connection, pytest.raises(ProgrammingError, match=denied):
        connection.execute(text(statement))


def test_a_role_that_owns_nothing_is_enough_for_workers_and_persons(roles: Roles) -> None:
    url = roles.url("", "change-me")
    migrate.check(url)
    with closing(SqlRegistry(url)) as registry:
        registry.store.look_around()
        worker, other = registry.joins(), registry.joins()
        worker.saves(worker.runs("lost", "m1"), "{}")
        other.ends("over", "m2", State.SUCCEEDED)
        assert registry.store.stop("lost", by="ann", reason="so")
        worker.is_lost()
        worker = registry.joins()
        worker.runs("held", "m3")
        worker.is_lost()
        [case] = [one for one in registry.take(other.id) if one.recovery.task_id == "held"]
        registry.store.decide(case.recovery, VerdictKind.HOLD, "so", {}, by=other.id)
        assert registry.store.recover("held", by="ann", reason="so")
        assert registry.store.campaign("sweeper", other.id, registry.store.term("sweeper"))
        assert registry.store.take_unclaimed(SCOPE, limit=9) == []
        assert registry.store.say_goodbye(other.fence, reason="stop")
    with closing(Survey(url)) as survey:
        assert {one["task_id"] for one in survey.tasks()["tasks"]} == {"lost", "over", "held"}


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE crisper_attempt",
        "ALTER TABLE crisper_event ADD COLUMN more text",
        "CREATE TABLE another (id int)",
        "UPDATE crisper_event SET actor = 'nobody'",
        "UPDATE crisper_alembic_version SET version_num = '0001'",
    ],
)
def test_it_changes_no_table_and_nothing_that_was_written_down(roles: Roles, statement: str) -> None:
    refused(roles.url("", "change-me"), statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT args_preview FROM crisper_attempt",
        "SELECT body FROM crisper_attempt",
        "SELECT envelope FROM crisper_publish",
        "SELECT data FROM crisper_checkpoint",
        "DELETE FROM crisper_event",
        "UPDATE crisper_recovery SET state = 'done'",
    ],
)
def test_who_only_reads_sees_nothing_of_what_tasks_were_called_with(roles: Roles, statement: str) -> None:
    reader = roles.url("_reader", "change-me-too")
    with Roles.connected(reader) as connection:
        connection.execute(text("SELECT task_id, name, state, reason FROM crisper_attempt"))
        connection.execute(text("SELECT kind, actor, data FROM crisper_event"))
    refused(reader, statement)
