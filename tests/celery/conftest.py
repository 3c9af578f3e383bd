"""One fleet on each broker that can deliver a message twice, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from tests.acceptance.conftest import broker_urls
from tests.fleet import Fleet


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def fleet(
    broker: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    made = Fleet(tmp_path_factory.mktemp(broker), **module_urls(broker, request))
    yield made
    made.close()


def module_urls(broker: str, request: pytest.FixtureRequest) -> dict[str, str]:
    """As `broker_urls`, with a virtual host for the whole module."""
    if broker != "rabbitmq":
        return broker_urls(broker, request)
    server = request.getfixturevalue("rabbitmq_server")
    vhost = server.vhost()
    request.addfinalizer(lambda: vhost.__exit__(None, None, None))
    return {"broker": vhost.__enter__()}


@pytest.fixture
def cut_connections(fleet: Fleet, broker: str, request: pytest.FixtureRequest) -> Callable[[], None]:
    """The broker closes the connections of everybody, and goes on. The result backend closes none: a task
    that could not store its result has failed, with Crisper or without."""
    if broker == "redis":
        return lambda: close_redis_connections(fleet.environment["FLEET_BROKER"])
    server = request.getfixturevalue("rabbitmq_server")
    vhost = fleet.environment["FLEET_BROKER"].rpartition("/")[2]
    return lambda: server.ctl("close_all_connections", "--vhost", vhost, "a test")


def close_redis_connections(url: str) -> None:
    """Those that are in the URL's database."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        [database] = {str(one["db"]) for one in client.client_list() if int(one["id"]) == client.client_id()}
        for one in client.client_list(_type="normal"):
            if str(one["db"]) == database:
                client.client_kill_filter(_id=one["id"], skipme=True)
