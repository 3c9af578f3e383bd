"""One filled registry, read by many tests; and empty ones, to be filled."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from crisper.engine.survey import Survey
from crisper.faces.cli import cli
from tests import places
from tests.faces.scene import Scene


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/registry.db"


@pytest.fixture
def scene(sqlite_url: str) -> Iterator[Scene]:
    """For tests that act."""
    with closing(Scene(sqlite_url)) as scene:
        yield scene


@pytest.fixture(scope="session")
def sqlite_scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with closing(Scene(f"sqlite:///{tmp_path_factory.mktemp('scene')}/registry.db")) as scene:
        yield scene


@pytest.fixture(scope="session")
def postgres_scene(postgres_server: str) -> Iterator[Scene]:
    with places.postgres_database(postgres_server) as url, closing(Scene(url)) as scene:
        yield scene


@pytest.fixture(scope="session")
def mariadb_scene(mariadb_server: str) -> Iterator[Scene]:
    with places.mariadb_database(mariadb_server) as url, closing(Scene(url)) as scene:
        yield scene


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def read_scene(request: pytest.FixtureRequest) -> Scene:
    """For tests that only read; every registry answers alike."""
    return request.getfixturevalue(f"{request.param}_scene")


@pytest.fixture
def survey(read_scene: Scene) -> Iterator[Survey]:
    with closing(Survey(read_scene.url)) as survey:
        yield survey


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in this process: `run(url, "tasks", "--json")`. Its exceptions are ours."""
    monkeypatch.delenv("CRISPER_REGISTRY_URL", raising=False)

    def run(url: str, *arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(cli, ["--registry", url, *arguments], prog_name="crisper", **options)

    return run


def read(result: Result) -> Any:
    """The JSON on stdout; nothing else may be there."""
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)
