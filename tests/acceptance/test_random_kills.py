"""SIGKILLs at random moments, counted from the tasks' own ledger; at length: bench/random_kills.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crisper.store.migrate import upgrade
from tests.acceptance.conftest import broker_urls
from tests.acceptance.random_kills import kill_at_random
from tests.fleet import Fleet


@pytest.fixture(params=["redis", "rabbitmq"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """Results go to Redis, for its chords."""
    monkeypatch.setenv("FLEET_TELLS_STORED", "1")
    urls = {"backend": broker_urls("redis", request)["backend"], **broker_urls(request.param, request)}
    registry = request.getfixturevalue("postgres_database")
    upgrade(registry)
    made = Fleet(tmp_path, registry=registry, loss_budget=20, **urls)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_twenty_random_kills_lose_nothing_and_run_nothing_twice(fleet: Fleet) -> None:
    figures = kill_at_random(fleet, kills=20, tasks=200, seed=20)
    assert figures.kept_every_promise, figures
    assert figures.runs_cut_short > 0
