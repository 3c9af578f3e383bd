"""A fleet on each broker: the embedded one, Redis, RabbitMQ."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import redis

from tests.acceptance.containers import container
from tests.fleet import Fleet
from tests.left_out import needs

BROKERS = ("filesystem", "redis", "rabbitmq")


@pytest.fixture(params=BROKERS)
def broker_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def fleet(broker_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path, **broker_urls(broker_name, request))
    yield made
    if getattr(request.node, "failed", False):
        print(made.story())
    made.close()


@pytest.fixture(scope="session")
def own_pids() -> list[str]:
    """The command that runs another with a pid namespace of its own."""
    with needs("pid namespaces"):
        return container()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and report.failed:
        item.failed = True  # type: ignore[attr-defined]
    return report


def broker_urls(name: str, request: pytest.FixtureRequest) -> dict[str, str]:
    """`broker` and `backend` for a `Fleet`, empty at the start of the test."""
    if name == "filesystem":
        return {}
    if name == "rabbitmq":
        return {"broker": request.getfixturevalue("rabbitmq_vhost")}
    server = str(request.getfixturevalue("redis_url")).rpartition("/")[0]
    urls = {"broker": f"{server}/9", "backend": f"{server}/10"}
    for url in urls.values():
        with redis.Redis.from_url(url) as client:
            client.flushdb()
    return urls
