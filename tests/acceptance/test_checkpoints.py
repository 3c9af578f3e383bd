"""A task that keeps checkpoints repeats at most what came after its last one, whatever kills it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from crisper.engine.survey import Survey
from tests.acceptance.test_journal import away, fleet_on
from tests.fleet import Fleet, wait_for
from tests.servers import PrivatePostgres

COUNT = 400


def read(fleet: Fleet) -> list[int]:
    """The documents, in the order in which they were read."""
    return [int(line.key) for line in fleet.ledger() if line.event == "document"]


@pytest.mark.parametrize(
    ("pool", "dies"),
    [("prefork", "worker"), ("prefork", "process"), ("threads", "worker"), ("gevent", "worker")],
)
def test_a_killed_pipeline_goes_on_at_the_document_where_it_died(
    pool: str, dies: str, tmp_path: Path
) -> None:
    """At another worker, or in another process."""
    fleet = Fleet(tmp_path)
    try:
        first = fleet.worker("first", "-P", pool)
        task = fleet.send("documents", "a", COUNT)
        wait_for("some are read", lambda: len(read(fleet)) >= 60)
        if dies == "worker":
            second = fleet.worker("second", "-P", pool, wait=False)
            first.kill()
            second.ready()
        else:
            os.kill(fleet.starts()[0].pid, signal.SIGKILL)
        assert task.get(timeout=60) == [2, ""]
        documents = read(fleet)
        assert set(documents) == set(range(COUNT))
        assert len(documents) <= COUNT + 1, "the one at which it died is read twice at most"
        wait_for("on record", lambda: fleet.attempts(task.id) == [(1, "lost"), (2, "succeeded")])
        survey = Survey(fleet.registry_url)
        story = survey.task(task.id)
        survey.close()
        assert story is not None
        assert (story["checkpoint"]["attempt"], story["checkpoint"]["preview"]) == (
            2,
            {"read": COUNT, "password": "[redacted]"},
        )
        [lost] = [event["data"] for event in story["events"] if event["kind"] == "lost"]
        assert dies == "worker" or lost["progress"].endswith(f" of {COUNT}")
        assert fleet.errors() == []
    finally:
        fleet.close()


def test_a_durable_checkpoint_is_in_the_journal_while_the_registry_is_away(
    own_postgres: PrivatePostgres, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with fleet_on(own_postgres, request, tmp_path) as fleet:
        fleet.worker("one")
        task = fleet.send("documents", "a", 150, True)
        wait_for("some are read", lambda: len(read(fleet)) >= 20)
        with away(own_postgres):
            assert task.get(timeout=30) == [1, "journal"]
        wait_for("on record", lambda: fleet.attempts(task.id) == [(1, "succeeded")])
        rows = fleet.rows("SELECT data FROM crisper_checkpoint WHERE task_id = ?", task.id)
        assert rows == [('{"read":150,"password":"hunter2"}',)]
        assert fleet.errors() == []
