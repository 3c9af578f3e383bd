"""Poison is bounded by its loss budget; what it took down with it is innocent."""

from __future__ import annotations

import pytest

from tests.acceptance.asking import crisper, in_broker, state_of
from tests.fleet import Fleet, wait_for

#: The embedded broker gives nothing back, so each loss there waits for the grace.
BROKERS = ["redis", "rabbitmq", pytest.param("filesystem", marks=pytest.mark.slow)]


@pytest.mark.parametrize("broker_name", BROKERS, indirect=True)
def test_what_kills_its_pool_process_is_quarantined_after_its_loss_budget_and_runs_once_cured(
    fleet: Fleet,
) -> None:
    fleet.environment["CRISPER_LOSS_BUDGET"] = "1"
    worker = fleet.worker("only")
    sent = fleet.send("poison", 1)
    wait_for("quarantined", lambda: state_of(fleet, sent.id) == "quarantined", 60)
    assert fleet.send("late", 2, 0).get(timeout=20) == 2
    assert len(fleet.starts(sent.id)) == 2
    assert fleet.attempts(sent.id) == [(1, "lost"), (2, "lost")]
    assert _kept(fleet, sent.id)
    wait_for("the broker is empty", lambda: in_broker(fleet) == 0)
    (fleet.folder / "cured").touch()
    assert crisper(fleet, "recover", sent.id)["tasks"][0]["outcome"] == "done"
    wait_for("done", lambda: state_of(fleet, sent.id) == "succeeded")
    assert len(fleet.ends(sent.id)) == 1
    worker.stop()
    assert in_broker(fleet) == 0
    assert fleet.errors() == []


@pytest.mark.parametrize("broker_name", BROKERS, indirect=True)
@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_what_kills_its_worker_is_quarantined_and_the_innocents_around_it_finish(
    fleet: Fleet, kills: int
) -> None:
    """They were only prefetched, or waited for their ETA, on every worker that it killed."""
    fleet.environment["CRISPER_LOSS_BUDGET"] = str(kills - 1)
    sent = fleet.send("poison_worker", 1, "go")
    waiting: list[str] = []
    innocents: set[str] = set()
    for life in range(1, kills + 1):
        worker = fleet.worker(f"life{life}", "-c", "1", FLEET_PREFETCH="16")
        wait_for(f"start {life}", lambda life=life: len(fleet.starts(sent.id)) == life)
        if not innocents:  # published behind it, so that none of them runs before it
            waiting += [fleet.send("late", key, 0, countdown=10 + 6 * kills).id for key in range(3)]
            innocents.update(waiting, (fleet.send("late", key, 0).id for key in range(3)))
        wait_for("everything claimed", lambda: _claimed(fleet, {sent.id, *innocents}))
        (fleet.folder / "go").touch()
        worker.process.wait(10)
        (fleet.folder / "go").unlink()
    last = fleet.worker("last", FLEET_PREFETCH="16")
    wait_for("quarantined", lambda: state_of(fleet, sent.id) == "quarantined")
    wait_for("the innocents finish", lambda: _over(fleet, innocents), 30 + 6 * kills)
    assert len(fleet.starts(sent.id)) == kills
    assert _kept(fleet, sent.id)
    assert {len(fleet.attempts(id)) for id in waiting} == {kills + 1}
    assert all(fleet.attempts(id)[0] == (1, "lost") for id in innocents)
    assert fleet.run_twice() == []
    wait_for("the broker is empty", lambda: in_broker(fleet) == 0)
    last.stop()
    assert in_broker(fleet) == 0
    assert fleet.errors() == []


def _claimed(fleet: Fleet, task_ids: set[str]) -> bool:
    """Each is in the worker's hands, or over."""
    return all(state_of(fleet, id) in ("claimed", "running", "succeeded") for id in task_ids)


def _over(fleet: Fleet, task_ids: set[str]) -> bool:
    return all(state_of(fleet, id) == "succeeded" for id in task_ids)


def _kept(fleet: Fleet, task_id: str) -> bool:
    sql = "SELECT body IS NOT NULL FROM crisper_attempt WHERE task_id = ? ORDER BY number DESC LIMIT 1"
    return bool(fleet.rows(sql, task_id)[0][0])
