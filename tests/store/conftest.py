"""One registry per test, on every store there is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from crisper.store import migrate
from crisper.store.open import open_store
from crisper.store.schema import metadata
from tests import places
from tests.store.acting import MemoryRegistry, Registry, SqlRegistry


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "registry.db"
    migrate.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: str) -> Iterator[str]:
    with places.postgres_database(postgres_server) as url:
        migrate.upgrade(url)
        yield url


@pytest.fixture(scope="session")
def migrated_mariadb(mariadb_server: str) -> Iterator[str]:
    with places.mariadb_database(mariadb_server) as url:
        migrate.upgrade(url)
        yield url


@pytest.fixture
def sqlite_registry(sqlite_template: Path, tmp_path: Path) -> Iterator[Registry]:
    shutil.copy(sqlite_template, tmp_path / "registry.db")
    with closing(SqlRegistry(f"sqlite:///{tmp_path}/registry.db")) as registry:
        yield registry


@pytest.fixture
def postgres_registry(migrated_postgres: str) -> Iterator[Registry]:
    tables = ", ".join(name for name in metadata.tables if name != "crisper_registry")
    with closing(open_store(migrated_postgres)) as store, store.db.write():
        store.db.run(f"TRUNCATE {tables}")
    with closing(SqlRegistry(migrated_postgres)) as registry:
        yield registry


@pytest.fixture
def mariadb_registry(migrated_mariadb: str) -> Iterator[Registry]:
    with closing(open_store(migrated_mariadb)) as store, store.db.write():
        for name in metadata.tables:
            if name != "crisper_registry":
                store.db.run(f"DELETE FROM {name}")  # TRUNCATE would make each table anew
    with closing(SqlRegistry(migrated_mariadb)) as registry:
        yield registry


@pytest.fixture
def memory_registry() -> Iterator[Registry]:
    with closing(MemoryRegistry()) as registry:
        yield registry


@pytest.fixture(params=["memory", "sqlite", "postgres", "mariadb"])
def registry(request: pytest.FixtureRequest) -> Registry:
    """Every store keeps every promise."""
    return request.getfixturevalue(f"{request.param}_registry")


@pytest.fixture(params=["postgres", "mariadb"])
def served(request: pytest.FixtureRequest) -> SqlRegistry:
    """A registry on a server."""
    return request.getfixturevalue(f"{request.param}_registry")


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def shared(request: pytest.FixtureRequest) -> SqlRegistry:
    """A registry that several processes can reach."""
    return request.getfixturevalue(f"{request.param}_registry")
