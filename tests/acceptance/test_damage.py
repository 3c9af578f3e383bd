"""Messages that cannot be read or that nobody knows: held with a sentence, and the others go on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.asking import crisper, in_broker, state_of
from tests.acceptance.watching import events
from tests.fleet import Fleet, Worker, wait_for


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    made.close()


def two_running(fleet: Fleet) -> tuple[Worker, str, str]:
    """A busy worker and the ids of what it runs; both bodies end once the file `go` exists."""
    worker = fleet.worker("first")
    ids = [fleet.send("late", key, "go").id for key in range(2)]
    wait_for("both run", lambda: len(fleet.starts()) == 2)
    running = "SELECT count(*) FROM crisper_attempt WHERE state = 'running'"
    wait_for("both on record", lambda: fleet.rows(running)[0][0] == 2)
    return worker, ids[0], ids[1]


def spoil(fleet: Fleet, task_id: str, column: str, value: object) -> None:
    with fleet.store() as store, store.db.write():
        assert store.db.run(f"UPDATE crisper_attempt SET {column} = ? WHERE task_id = ?", value, task_id) == 1


def command(fleet: Fleet, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "crisper", "-A", "tests.fleet_app", *arguments]
    return subprocess.run(
        line, env=fleet.environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("body", b"[[0, ", "the kept message is damaged"),
        ("envelope", '{"headers": ', "the kept message cannot be read"),
    ],
)
def test_a_damaged_message_is_held_with_a_sentence_and_the_other_recoveries_go_on(
    fleet: Fleet, column: str, value: object, sentence: str
) -> None:
    worker, damaged, sound = two_running(fleet)
    spoil(fleet, damaged, column, value)
    worker.kill()
    second = fleet.worker("second")
    wait_for("the sound one runs again", lambda: len(fleet.starts(sound)) == 2)
    wait_for("the damaged one is held", lambda: state_of(fleet, damaged) == "held")
    shown = crisper(fleet, "show", damaged)
    assert sentence in shown["verdicts"][-1]["reason"]

    refused = command(fleet, "recover", damaged)
    assert refused.returncode == 1
    assert sentence in refused.stderr
    assert "Traceback" not in refused.stderr
    assert state_of(fleet, damaged) == "held"  # still there, and nobody tries it again and again
    assert events(fleet, "recovery_delayed") == []

    (fleet.folder / "go").touch()
    wait_for("the sound one succeeds", lambda: state_of(fleet, sound) == "succeeded")
    assert len(fleet.starts(damaged)) == 1
    assert fleet.run_twice() == []
    assert "Traceback" not in second.text()
    assert command(fleet, "discard", damaged).returncode == 0


def test_a_message_of_an_unknown_task_is_discarded_by_celery_and_the_worker_goes_on(fleet: Fleet) -> None:
    stray = fleet.app.send_task("nobody.knows")
    known = fleet.send("noop", 7)
    worker = fleet.worker("first", "-c", "1")
    assert known.get(timeout=20) == 7
    assert "Received unregistered task of type 'nobody.knows'" in worker.text()
    wait_for("an empty broker", lambda: in_broker(fleet) == 0)
    assert fleet.attempts(stray.id) == []
    assert fleet.errors() == []


def test_a_lost_task_that_its_queue_s_workers_no_longer_know_is_held_not_discarded(fleet: Fleet) -> None:
    worker, one, other = two_running(fleet)
    worker.kill()
    newer = fleet.worker("newer", FLEET_WITHOUT="late")
    for task_id in (one, other):
        wait_for("it is held", lambda id=task_id: state_of(fleet, id) == "held")
        reason = crisper(fleet, "show", task_id)["verdicts"][-1]["reason"]
        assert "do not know its task any more" in reason
    assert "Received unregistered task" not in newer.text()
    newer.kill()

    (fleet.folder / "go").touch()
    fleet.worker("older")  # knows it: a person sends it again, and it runs
    assert crisper(fleet, "recover", one)["tasks"][0]["outcome"] == "done"
    wait_for("it ends", lambda: state_of(fleet, one) == "succeeded")
    assert state_of(fleet, other) == "held"
