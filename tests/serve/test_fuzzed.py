"""The API does what its description says, whoever asks for whatever.

Requests are made up from `/api/v1/openapi.json`: some that it allows, and some that it does not. None is
answered by an error of ours; each answer has a status, a content type and a shape that are described; what is
not allowed is refused. `CRISPER_FUZZ=500 make slow ARGS=tests/serve/test_fuzzed.py` asks for longer.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings, strategies
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.openapi.checks import RejectedPositiveData
from schemathesis.specs.openapi.checks import ignored_auth

from crisper.faces.cli.place import Place
from crisper.faces.serve import openapi
from crisper.faces.serve.accounts import Account, Accounts
from crisper.faces.serve.names import Names
from crisper.faces.serve.registry import Registry
from crisper.faces.serve.sessions import Sessions
from crisper.faces.serve.web import Site, application, doors_of
from tests import places
from tests.faces.scene import Scene
from tests.serve.conftest import ELSEWHERE, PASSWORD

FEW, MANY = 8, int(os.environ.get("CRISPER_FUZZ", "300"))


def strict(document: dict[str, Any]) -> dict[str, Any]:
    """As described, and nothing else: what is not described is in no answer."""
    document = copy.deepcopy(document)
    for schema in document["components"]["schemas"].values():
        _close(schema)
    return document


def _close(schema: Any) -> None:
    if isinstance(schema, dict):
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
        for part in schema.values():
            _close(part)
    elif isinstance(schema, list):
        for part in schema:
            _close(part)


@pytest.fixture(scope="module")
def sqlite_scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with closing(Scene(f"sqlite:///{tmp_path_factory.mktemp('fuzzed')}/registry.db")) as scene:
        yield scene


@pytest.fixture(scope="module")
def postgres_scene(postgres_server: str) -> Iterator[Scene]:
    with places.postgres_database(postgres_server) as url, closing(Scene(url)) as scene:
        yield scene


def described() -> dict[str, Any]:
    with closing(Registry(Place(None, None, "sqlite:////nowhere/registry.db", True))) as registry:
        site = Site(registry, Names("0.0.0.0"), Accounts({}))
        return openapi.document(doors_of(site, Sessions(), None).all)


#: A guess too many is answered 429, so that no rule of "401 or 403" holds; `test_security` tries every door.
NOT_ASKED = [ignored_auth]
#: Why what the description allows may be refused: what it cannot say.
WORDS_ONLY = (
    *("no cursor of ours", "is no time", "takes tasks that are", "every task there is", "between 1m and 31d"),
    *(
        "stands there twice",
        "address is too long",
        "to be sure that so many are meant",
        "an operator may search",
    ),
)
CONFIG = {
    "request-timeout": 30,  # a machine that does other things besides is no finding
    "generation": {"database": "none", "with-security-parameters": False},
    "checks": {
        "negative_data_rejection": {"expected-statuses": [400, 401, 403, 404, 405, 409, 413, 414, 415, 429]},
    },
}


def schema_of(app: Any) -> Any:
    config = SchemathesisConfig.from_dict(copy.deepcopy(CONFIG))
    schema = schemathesis.openapi.from_dict(strict(described()), config=config)
    schema.app = app

    @schema.hook
    def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
        positive = isinstance(failure, RejectedPositiveData)
        return not (positive and any(words in response.text for words in WORDS_ONLY))

    return schema


class Asked(NamedTuple):
    schema: Any
    scene: Scene


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def asked(request: pytest.FixtureRequest, known: dict[str, Account]) -> Iterator[Asked]:
    scene = request.getfixturevalue(f"{request.param}_scene")
    place = Place(None, None, scene.url, True)
    with pytest.MonkeyPatch.context() as patch, closing(Registry(place)) as registry:
        patch.setattr("crisper.faces.serve.pace.MOST", 10**9)
        app = application(Site(registry, Names("0.0.0.0"), Accounts(known)))
        yield Asked(schema_of(app), scene)


OPERATIONS = [(path, method) for path, methods in described()["paths"].items() for method in methods]


def fuzz(asked: Asked, path: str, method: str, name: str, examples: int) -> None:
    operation = asked.schema[path][method]
    ids = [*asked.scene.ids.values()]

    # The short form asks the same each time; the long one asks what nobody has asked yet.
    @settings(
        deadline=None,
        max_examples=examples,
        database=None,
        derandomize=examples == FEW,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=strategies.data(), mode=strategies.sampled_from(GenerationMode))
    def ask(data: Any, mode: GenerationMode) -> None:
        case = data.draw(operation.as_strategy(generation_mode=mode))
        known = mode is GenerationMode.POSITIVE and "task_id" in case.path_parameters
        if known and data.draw(strategies.booleans()):
            case.path_parameters["task_id"] = data.draw(strategies.sampled_from(ids))
        case.call_and_validate(base_url=ELSEWHERE, auth=(name, PASSWORD), excluded_checks=NOT_ASKED)

    ask()


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_an_operator_is_answered_as_described(asked: Asked, path: str, method: str) -> None:
    fuzz(asked, path, method, "ann", FEW)


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_a_viewer_is_answered_as_described(asked: Asked, path: str, method: str) -> None:
    fuzz(asked, path, method, "vic", FEW)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["ann", "vic"])
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_for_longer(asked: Asked, path: str, method: str, name: str) -> None:
    fuzz(asked, path, method, name, MANY)
