"""The registry's schema: made once, upgraded safely, and judged in words that say what to run."""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from crisper.errors import (
    CrisperError,
    RegistryUnreachable,
    SchemaMissing,
    SchemaOutdated,
    SchemaTooNew,
    SettingsError,
)
from crisper.store import migrate, schema, version
from crisper.store.open import open_store, redacted
from tests import places
from tests.schema import set_revision

Sql = Callable[[str], list[Any]]


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A registry that does not exist yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state/registry.db"
    return str(request.getfixturevalue(f"{request.param}_database"))


def revision_of(url: str) -> str:
    with closing(open_store(url)) as store, store.db.write():
        [(found,)] = store.db.rows(f"SELECT version_num FROM {version.TABLE}")
    return str(found)


# What an upgrade makes.


def test_an_upgrade_makes_the_schema_and_an_identity(url: str) -> None:
    migrate.upgrade(url)
    migrate.check(url)
    with closing(open_store(url)) as store:
        assert len(store.identity()) >= 32


def test_a_second_upgrade_changes_nothing(url: str) -> None:
    migrate.upgrade(url)
    with closing(open_store(url)) as store:
        before = store.identity()
        migrate.upgrade(url)
        assert store.identity() == before


def test_two_registries_have_two_identities(tmp_path: Path) -> None:
    made = set()
    for name in ("one", "two"):
        migrate.upgrade(f"sqlite:///{tmp_path}/{name}.db")
        with closing(open_store(f"sqlite:///{tmp_path}/{name}.db")) as store:
            made.add(store.identity())
    assert len(made) == 2


def test_the_revisions_make_what_the_schema_says_on_sqlite(tmp_path: Path) -> None:
    migrate.upgrade(f"sqlite:///{tmp_path}/migrated.db")
    engine = sa.create_engine(f"sqlite:///{tmp_path}/declared.db")
    schema.metadata.create_all(engine)
    made, declared = (_sqlite_schema(tmp_path / f"{name}.db") for name in ("migrated", "declared"))
    assert {name: _parts(sql) for name, sql in made.items()} == {
        name: _parts(sql) for name, sql in declared.items()
    }


def _parts(sql: str) -> list[str]:
    """A column that came later stands behind the table's key."""
    return sorted(one.strip(" )") for one in sql.split(","))


def _sqlite_schema(path: Path) -> dict[str, str]:
    with closing(sqlite3.connect(path)) as connection:
        made = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {name: " ".join(sql.split()) for name, sql in made if name != version.TABLE}


def test_the_revisions_make_what_the_schema_says_on_postgres(postgres_database: str) -> None:
    migrate.upgrade(postgres_database)
    engine = sa.create_engine(postgres_database, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE SCHEMA declared"))
        connection.execute(sa.text("SET LOCAL search_path = declared"))
        schema.metadata.create_all(connection)
    with engine.connect() as connection:
        assert _postgres_schema(connection, "public") == _postgres_schema(connection, "declared")


def test_on_postgres_what_is_written_often_has_room_and_what_grows_is_vacuumed_by_thousands(
    postgres_database: str,
) -> None:
    migrate.upgrade(postgres_database)
    with sa.create_engine(postgres_database, poolclass=sa.NullPool).connect() as connection:
        told = connection.execute(
            sa.text("SELECT relname, reloptions FROM pg_class WHERE reloptions IS NOT NULL")
        )
        options = {name: dict(one.split("=") for one in some) for name, some in told}
    assert {options[table]["fillfactor"] for table in ("crisper_incarnation", "crisper_running")} == {"50"}
    assert options["crisper_attempt"]["autovacuum_vacuum_scale_factor"] == "0.01"


def _postgres_schema(connection: sa.Connection, place: str) -> tuple[list[Any], list[str]]:
    columns = connection.execute(
        sa.text(
            "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable,"
            " replace(column_default, :dotted, '') FROM information_schema.columns"
            " WHERE table_schema = :place AND table_name <> :version ORDER BY 1, ordinal_position"
        ),
        {"place": place, "dotted": f"{place}.", "version": version.TABLE},
    )
    indexes = connection.execute(
        sa.text(
            "SELECT indexdef FROM pg_indexes WHERE schemaname = :place AND tablename <> :version ORDER BY 1"
        ),
        {"place": place, "version": version.TABLE},
    )
    return [tuple(row) for row in columns], [row[0].replace(f"{place}.", "") for row in indexes]


def test_the_revisions_make_what_the_schema_says_on_mariadb(
    mariadb_database: str, mariadb_server: str
) -> None:
    migrate.upgrade(mariadb_database)
    with places.mariadb_database(mariadb_server) as declared:
        engine = sa.create_engine(declared.replace("mariadb:", "mysql+pymysql:"), poolclass=sa.NullPool)
        schema.metadata.create_all(engine)
        assert _mariadb_columns(mariadb_database) == _mariadb_columns(declared)


def _mariadb_columns(url: str) -> list[Any]:
    """But the column that stands for an index of the other databases."""
    with closing(open_store(url)) as store, store.db.write():
        return store.db.rows(
            "SELECT table_name, column_name, column_type, is_nullable, column_default, extra"
            " FROM information_schema.columns WHERE table_schema = DATABASE()"
            " AND table_name <> ? AND column_name <> 'open_by' ORDER BY 1, ordinal_position",
            version.TABLE,
        )


def test_an_upgrade_of_mariadb_that_was_cut_short_anywhere_is_finished_by_the_next(
    mariadb_server: str,
) -> None:
    """It commits after each statement; so nothing is undone, and nothing is made twice."""
    with places.mariadb_database(mariadb_server) as whole:
        migrate.upgrade(whole)
        wanted = _mariadb_columns(whole)
        statements = [s for s in migrate.sql(whole).split(";") if s.strip()]
    for done in range(1, len(statements), 3):
        with places.mariadb_database(mariadb_server) as url:
            with closing(open_store(url)) as store, store.db.write():
                for statement in statements[:done]:
                    store.db.run(statement)
            migrate.upgrade(url)
            migrate.check(url)
            assert _mariadb_columns(url) == wanted
            with closing(open_store(url)) as store, store.db.write():
                assert store.db.rows("SELECT count(*) FROM crisper_registry") == [(2,)]


def test_the_head_revision_is_the_newest_file() -> None:
    directory = ScriptDirectory.from_config(migrate._config())
    assert directory.get_heads() == [version.HEAD_REVISION]
    for script in directory.walk_revisions():
        assert script.revision.isdigit()
        assert len(script.revision) == 4  # they are compared as text


def test_an_upgrade_honours_the_search_path_of_the_url(postgres_database: str) -> None:
    engine = sa.create_engine(postgres_database, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE SCHEMA apart"))
    url = f"{postgres_database}?options=-csearch_path%3Dapart"
    migrate.upgrade(url)
    migrate.check(url)
    with pytest.raises(SchemaMissing):
        migrate.check(postgres_database)
    with closing(open_store(url)) as store:
        assert store.identity()


def test_what_is_made_on_disk_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "state" / "crisper" / "registry.db"
    migrate.ensure(f"sqlite:///{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700
    with closing(open_store(f"sqlite:///{path}")) as store:
        store.term("sweeper")
        beside = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()}
    assert "registry.db-wal" in beside
    assert set(beside.values()) == {0o600}


def test_a_folder_that_existed_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o755)
    (tmp_path / "shared").chmod(0o755)
    migrate.ensure(f"sqlite:///{tmp_path}/shared/registry.db")
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o755


# The script for whoever may run it.


def test_the_script_makes_the_same_registry(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/by_hand.db"
    with closing(sqlite3.connect(tmp_path / "by_hand.db")) as connection:
        connection.executescript(migrate.sql(url))
    migrate.check(url)
    migrate.upgrade(f"sqlite:///{tmp_path}/migrated.db")
    assert _sqlite_schema(tmp_path / "by_hand.db") == _sqlite_schema(tmp_path / "migrated.db")


def test_the_script_runs_on_postgres(postgres_database: str) -> None:
    engine = sa.create_engine(postgres_database, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(migrate.sql(postgres_database))
    migrate.check(postgres_database)
    with closing(open_store(postgres_database)) as store:
        assert store.identity()


def test_the_script_runs_on_mariadb(mariadb_database: str) -> None:
    with closing(open_store(mariadb_database)) as store, store.db.write():
        for statement in migrate.sql(mariadb_database).split(";"):
            if statement.strip():
                store.db.run(statement)
    migrate.check(mariadb_database)
    with closing(open_store(mariadb_database)) as store:
        assert store.identity()


def test_the_script_asks_no_server() -> None:
    assert "utf8mb4_nopad_bin" in migrate.sql("mariadb://u:secret@127.0.0.1:1/nowhere")
    assert "gen_random_uuid()" in migrate.sql("postgresql://u:secret@127.0.0.1:1/nowhere")


# Judging.


def test_a_database_without_a_registry_is_said_to_miss_it(url: str) -> None:
    with pytest.raises(SchemaMissing, match=r"holds no Crisper registry yet.*crisper migrate"):
        migrate.check(url)


def test_asking_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(SchemaMissing):
        migrate.check(f"sqlite:///{tmp_path}/state/registry.db")
    with pytest.raises(SchemaMissing):
        migrate.check(f"sqlite:///{tmp_path}/registry.db")
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_a_registry_is_said_to_miss_it(tmp_path: Path) -> None:
    (tmp_path / "registry.db").touch()
    with pytest.raises(SchemaMissing):
        migrate.check(f"sqlite:///{tmp_path}/registry.db")


def test_an_older_registry_is_to_be_upgraded(url: str) -> None:
    migrate.upgrade(url)
    set_revision(url, "0000")
    with pytest.raises(SchemaOutdated, match=r"has schema 0000.*crisper migrate"):
        migrate.check(url)


def test_a_newer_registry_asks_for_a_newer_crisper_and_is_left_alone(url: str) -> None:
    migrate.upgrade(url)
    set_revision(url, "9999")
    for verb in (migrate.check, migrate.upgrade, migrate.ensure):
        with pytest.raises(SchemaTooNew, match=r"has schema 9999.*pip install --upgrade"):
            verb(url)


def test_a_newer_registry_that_only_adds_is_worked_with_and_left_alone(url: str) -> None:
    migrate.upgrade(url)
    set_revision(url, "9999", oldest=version.HEAD_REVISION)
    for verb in (migrate.check, migrate.upgrade, migrate.ensure):
        verb(url)
    assert revision_of(url) == "9999"


def test_a_worker_makes_an_embedded_registry_by_itself(tmp_path: Path) -> None:
    migrate.ensure(f"sqlite:///{tmp_path}/registry.db")
    migrate.check(f"sqlite:///{tmp_path}/registry.db")


@pytest.mark.parametrize("server", ["postgres", "mariadb"])
def test_a_worker_leaves_a_server_to_whoever_runs_it(server: str, request: pytest.FixtureRequest) -> None:
    database = request.getfixturevalue(f"{server}_database")
    with pytest.raises(SchemaMissing):
        migrate.ensure(database)
    with pytest.raises(SchemaMissing):
        migrate.check(database)


UNREACHABLE = [
    "postgresql://ann:s3cret@127.0.0.1:1/registry",
    "postgresql+psycopg://ann:s3cret@127.0.0.1:1/registry",
    "postgres://127.0.0.1:1/registry?user=ann&password=s3cret",
    "mariadb://ann:s3cret@127.0.0.1:1/registry",
    "mysql+pymysql://ann:s3cret@127.0.0.1:1/registry",
]
UNREADABLE = [
    "postgresql://ann:s3cret/x@127.0.0.1:1/registry",
    "postgresql://ann:s3cret@x@127.0.0.1:1/registry",
    "postgresql://ann:[s3cret@127.0.0.1:1/registry",
    "postgresql://ann:x?s3cret#@127.0.0.1:1/registry",
    "mysql://ann:s3cret/x@127.0.0.1:1/registry",
    "mysql://ann:s3cret@x@127.0.0.1:1/registry",
    "mysql://ann:[s3cret@127.0.0.1:1/registry",
    "mysql://ann:x?s3cret#@127.0.0.1:1/registry",
    "mysql://ann:s3cret@127.0.0.1:1/",
    "mysql://ann:s3cret@127.0.0.1:1/registry?ssl_cipher=x",
    "mysql://ann:s3cret@127.0.0.1:1/registry?ssl_ca=/nowhere/ca.pem",
    "mysql://ann:s3cret@127.0.0.1:1/registry?charset=latin1",
    "oracle://ann:s3cret@127.0.0.1:1/registry",
]


@pytest.mark.parametrize("verb", [migrate.check, migrate.ensure, migrate.upgrade])
@pytest.mark.parametrize("url", UNREACHABLE)
def test_a_server_that_does_not_answer_is_named_without_its_password(verb: Any, url: str) -> None:
    with pytest.raises(RegistryUnreachable, match=r"127\.0\.0\.1.*cannot be reached") as caught:
        verb(url)
    assert "s3cret" not in "".join(_told(caught.value))


@pytest.mark.parametrize("verb", [migrate.check, migrate.ensure, migrate.upgrade])
@pytest.mark.parametrize("url", UNREADABLE)
def test_a_url_that_cannot_be_read_never_shows_its_password(verb: Any, url: str) -> None:
    with pytest.raises(CrisperError) as caught:
        verb(url)
    assert isinstance(caught.value, (SettingsError, RegistryUnreachable))
    assert "s3cret" not in "".join(_told(caught.value))


def _told(error: BaseException | None) -> list[str]:
    """What a traceback would print of an error and of all that led to it."""
    told = []
    while error is not None:
        told.append(str(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return told


def test_redacting_takes_any_text() -> None:
    assert redacted("postgresql://ann@h/db") == "postgresql://ann@h/db"
    assert redacted("postgresql://ann:a@b:c@h:5432/db?x=1") == "postgresql://ann:***@h:5432/db?x=1"
    assert redacted("sqlite:////tmp/x.db") == "sqlite:////tmp/x.db"
    assert redacted("[") == "["


@pytest.mark.parametrize("place", ["/proc/nowhere/registry.db", "/dev/null/registry.db"])
def test_a_place_that_cannot_hold_a_file_is_unreachable(place: str) -> None:
    with pytest.raises(RegistryUnreachable, match=r"cannot be (made|opened|used)"):
        migrate.ensure(f"sqlite:///{place}")


def test_a_file_that_is_no_database_is_unreachable(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_text("my diary\n" * 1000)
    for verb in (migrate.check, migrate.ensure, migrate.upgrade):
        with pytest.raises(RegistryUnreachable, match=r"registry\.db"):
            verb(f"sqlite:///{tmp_path}/registry.db")


# Several at once.

_UPGRADE = """
import sys
from crisper.store import migrate
from crisper.store.open import open_store
sys.stdin.readline()
migrate.{verb}(sys.argv[1])
print(open_store(sys.argv[1]).identity())
"""


def _at_once(url: str, verb: str, processes: int) -> list[tuple[int, str, str]]:
    """The verb in processes of their own, all let go together."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _UPGRADE.format(verb=verb), url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [(process.wait(), *process.communicate()) for process in running]


def test_processes_that_upgrade_at_once_make_one_registry(url: str) -> None:
    ended = _at_once(url, "upgrade", 5)
    assert [code for code, _, _ in ended] == [0] * 5, [error for _, _, error in ended]
    assert len({out for _, out, _ in ended}) == 1
    migrate.check(url)


def test_workers_that_start_at_once_make_one_embedded_registry(tmp_path: Path) -> None:
    ended = _at_once(f"sqlite:///{tmp_path}/a/b/registry.db", "ensure", 5)
    assert [code for code, _, _ in ended] == [0] * 5, [error for _, _, error in ended]
    assert len({out for _, out, _ in ended}) == 1


# The recorder's memory.

_LIGHT = """
import json, sys
import crisper.store.open, crisper.store.version
store = crisper.store.open.open_store(sys.argv[1])
crisper.store.version.check_light(store)
print(json.dumps(sorted(sys.modules)))
"""


def test_opening_and_checking_a_registry_loads_neither_sqlalchemy_nor_alembic(url: str) -> None:
    migrate.upgrade(url)
    out = subprocess.run([sys.executable, "-c", _LIGHT, url], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(out.stdout)}
    assert loaded.isdisjoint({"sqlalchemy", "alembic", "celery", "kombu"})
