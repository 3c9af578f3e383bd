"""The registry is away and tasks go on: on record in the journal, and in the registry once it is back."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from crisper.core.model import Published, Record, Start
from crisper.engine.folder import open_file
from crisper.engine.journal import Journal
from crisper.engine.lines import Told
from crisper.store.migrate import upgrade
from tests.acceptance.conftest import broker_urls
from tests.acceptance.unharmed import all_run_once
from tests.acceptance.watching import losses
from tests.faults.proxy import FaultProxy
from tests.fleet import Fleet, Worker, wait_for
from tests.servers import PrivatePostgres

LEASE = 3.0
QUICK = {"lease": LEASE, "heartbeat_interval": 0.5, "sweep_interval": 0.2}

pytestmark = pytest.mark.timeout(120)


@contextmanager
def fleet_on(
    server: PrivatePostgres,
    request: pytest.FixtureRequest,
    folder: Path,
    broker: str = "redis",
    **settings: Any,
) -> Iterator[Fleet]:
    upgrade(server.url)
    fleet = Fleet(folder, registry=server.url, **{**broker_urls(broker, request), **QUICK, **settings})
    try:
        yield fleet
    except BaseException:
        print("\n".join(w.text()[-6000:] for w in fleet.workers))
        raise
    finally:
        fleet.close()


@contextmanager
def away(server: PrivatePostgres) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.start()


def journals(fleet: Fleet) -> list[Path]:
    """Those that hold something."""
    return [path for path in (fleet.folder / "journal").glob("*.journal") if path.stat().st_size]


def records(fleet: Fleet) -> list[Record | Published]:
    """What the journals hold, by copies of them: they are locked by who writes them."""
    held: list[Record | Published] = []
    for path in journals(fleet):
        file = open_file(Path(shutil.copy(path, fleet.folder / "copy")))
        assert file is not None
        with closing(Journal(file, most_bytes=0)) as journal:
            held += [found.line.record for found in journal.lines() if isinstance(found.line, Told)]
    return held


def started(fleet: Fleet) -> list[str]:
    return [record.task_id for record in records(fleet) if isinstance(record, Start)]


def of_publishes(fleet: Fleet) -> list[Published]:
    return [record for record in records(fleet) if isinstance(record, Published)]


def replayed(fleet: Fleet) -> None:
    wait_for("every journal is replayed", lambda: not journals(fleet), 30)


def noticed(worker: Worker) -> None:
    wait_for("it noticed", lambda: "does not answer" in worker.text())


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_tasks_go_on_while_the_registry_is_away_and_are_on_record_when_it_is_back(
    broker: str, own_postgres: PrivatePostgres, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with fleet_on(own_postgres, request, tmp_path, broker) as fleet:
        worker = fleet.worker("only")
        sent = [fleet.send("late", n, 0.01).id for n in range(4)]
        over = fleet.send("late", "over", "open").id
        wait_for("it runs on record", lambda: fleet.attempts(over) == [(1, "running")])
        with away(own_postgres):
            in_it = [fleet.send("late", n, 0.01).id for n in range(20)]
            wait_for("they end in it", lambda: {line.task_id for line in fleet.ends()} >= set(in_it))
            (fleet.folder / "open").touch()
            wait_for("it ends in it", lambda: fleet.ends(over))
            time.sleep(LEASE + 1)
        all_run_once(fleet, [*sent, over, *in_it])
        assert fleet.incarnations() == {"only": ["alive"]}
        replayed(fleet)
        assert worker.stop() == 0
        assert list((fleet.folder / "journal").iterdir()) == []


def test_the_journal_is_for_its_user_alone(
    own_postgres: PrivatePostgres, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with fleet_on(own_postgres, request, tmp_path) as fleet:
        worker = fleet.worker("only")
        with away(own_postgres):
            fleet.send("late", 1, 0.01).get(timeout=20)
            noticed(worker)
            (journal,) = journals(fleet)
            assert stat.S_IMODE(journal.stat().st_mode) == 0o600
            assert stat.S_IMODE(journal.parent.stat().st_mode) == 0o700


def test_a_worker_that_starts_while_the_registry_is_away_runs_tasks_and_enrolls_when_it_is_back(
    own_postgres: PrivatePostgres, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with fleet_on(own_postgres, request, tmp_path) as fleet:
        with away(own_postgres):
            fleet.worker("late_comer")
            sent = [fleet.send("late", n, 0.01).id for n in range(6)]
            wait_for("they end", lambda: {line.task_id for line in fleet.ends()} >= set(sent))
        all_run_once(fleet, sent)
        assert fleet.incarnations() == {"late_comer": ["alive"]}


def test_a_recorder_killed_in_an_outage_leaves_its_journal_to_the_next(
    own_postgres: PrivatePostgres, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with fleet_on(own_postgres, request, tmp_path) as fleet:
        worker = fleet.worker("only")
        running = fleet.send("late", "running", "open").id
        wait_for("it runs on record", lambda: fleet.attempts(running) == [(1, "running")])
        with away(own_postgres):
            before = [fleet.send("late", n, 0.01).id for n in range(6)]
            wait_for("they end", lambda: {line.task_id for line in fleet.ends()} >= set(before))
            os.kill(worker.recorder(), signal.SIGKILL)
            after = [fleet.send("late", n, 0.01).id for n in range(6)]
            wait_for("they end too", lambda: {line.task_id for line in fleet.ends()} >= set(after))
            (fleet.folder / "open").touch()
            wait_for("it ends", lambda: fleet.ends(running))
        all_run_once(fleet, [running, *before, *after])
        assert fleet.incarnations() == {"only": ["alive"]}


@pytest.mark.parametrize("parent_only", [True, False], ids=["parent", "parent and recorder"])
def test_what_a_worker_that_died_in_an_outage_left_is_adopted_by_another_on_its_host(
    parent_only: bool, own_postgres: PrivatePostgres, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Finished tasks are on record as finished, and what ran comes back."""
    with fleet_on(own_postgres, request, tmp_path) as fleet:
        worker = fleet.worker("first")
        with away(own_postgres):
            done = [fleet.send("late", n, 0.01).id for n in range(6)]
            wait_for("they end", lambda: {line.task_id for line in fleet.ends()} >= set(done))
            running = fleet.send("late", "running", "open").id
            wait_for("it runs", lambda: fleet.starts(running))
            wait_for("its start is in the journal", lambda: running in started(fleet))
            recorder = worker.recorder()
            if not parent_only:
                os.kill(recorder, signal.SIGSTOP)
            worker.kill()
            if not parent_only:
                os.kill(recorder, signal.SIGKILL)
            fleet.worker("second")
        (fleet.folder / "open").touch()
        wait_for("it ran again", lambda: fleet.attempts(running) == [(1, "lost"), (2, "succeeded")], 40)
        assert {id: fleet.attempts(id) for id in done} == {id: [(1, "succeeded")] for id in done}
        assert fleet.run_twice() == []
        assert fleet.incarnations()["first"] == ["lost"]
        replayed(fleet)


def test_a_worker_that_ended_in_order_in_an_outage_is_on_record_as_gone(
    own_postgres: PrivatePostgres, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with fleet_on(own_postgres, request, tmp_path) as fleet:
        worker = fleet.worker("first")
        with away(own_postgres):
            done = [fleet.send("late", n, 0.01).id for n in range(4)]
            wait_for("they end", lambda: {line.task_id for line in fleet.ends()} >= set(done))
            recorder = worker.recorder()
            assert worker.stop() == 0
            os.kill(recorder, signal.SIGKILL)  # it would wait for the registry for a minute
            assert journals(fleet)
        fleet.worker("second")
        all_run_once(fleet, done)
        wait_for("it is gone", lambda: fleet.incarnations()["first"] == ["gone"])
        replayed(fleet)


def test_a_worker_cut_off_until_it_is_declared_lost_replays_what_it_ran_meanwhile_as_somebody_new(
    own_postgres: PrivatePostgres, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """What it had claimed before is fenced, what it let run by the journal's rules goes on."""
    away = FaultProxy(("127.0.0.1", own_postgres.port))
    with away, fleet_on(own_postgres, request, tmp_path) as fleet:
        cut_off = fleet.worker("cut_off", CRISPER_REGISTRY_URL=away.address_in(own_postgres.url))
        before = fleet.send("early", "before", "never").id
        wait_for("it runs on record", lambda: fleet.attempts(before) == [(1, "running")])
        away.refuse = True
        away.reset()
        noticed(cut_off)
        done = [fleet.send("late", n, 0.01).id for n in range(4)]
        wait_for("they end", lambda: {line.task_id for line in fleet.ends()} >= set(done))
        running = fleet.send("late", "running", "open").id
        wait_for("it runs", lambda: fleet.starts(running))
        fleet.worker("neighbour", "-Q", "elsewhere")
        wait_for("it is declared", lambda: fleet.incarnations()["cut_off"] == ["lost"], 40)
        away.heal()
        wait_for("it is somebody new", lambda: fleet.incarnations()["cut_off"] == ["lost", "alive"], 20)
        (fleet.folder / "open").touch()
        for id in [*done, running]:
            wait_for("it is on record", lambda id=id: fleet.attempts(id) == [(1, "succeeded")], 20)
        assert len(fleet.starts(running)) == 1
        assert fleet.attempts(before)[0] == (1, "lost")


def test_a_worker_that_is_to_pause_takes_no_more_and_comes_back_by_itself(
    own_postgres: PrivatePostgres, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with fleet_on(own_postgres, request, tmp_path, on_registry_down="pause") as fleet:
        worker = fleet.worker("only")
        fleet.send("late", 0, 0.01).get(timeout=20)
        with away(own_postgres):
            fleet.send("late", 1, 0.01)
            wait_for("it pauses", lambda: "takes no more messages" in worker.text(), 20)
            time.sleep(0.5)
            sent = [fleet.send("late", n, 0.01).id for n in range(2, 22)]
            time.sleep(2)
            assert not {line.task_id for line in fleet.starts()} & set(sent)
            assert waiting(fleet) >= len(sent) - 1
        wait_for("all ended", lambda: {line.task_id for line in fleet.ends()} >= set(sent), 40)
        assert losses(fleet) == 0
        assert journals(fleet) == []
        assert "takes messages again" in worker.text()


def test_where_no_journal_can_be_made_that_is_said_and_an_outage_pauses_the_worker(
    own_postgres: PrivatePostgres, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    with fleet_on(own_postgres, request, tmp_path, journal_dir=tmp_path / "file" / "journal") as fleet:
        worker = fleet.worker("only")
        assert "Set crisper_journal_dir to a folder" in worker.text()
        with away(own_postgres):
            fleet.send("late", 1, 0.01)
            wait_for("it pauses", lambda: "takes no more messages" in worker.text(), 20)
        wait_for("it ran", lambda: len(fleet.ends()) == 1, 40)


PUBLISHER = """
import os, sys
from tests.fleet_app import make
app = make(os.environ)
app.conf.update(crisper_track_publish="async", crisper_redelivery_grace=1.0)
for n in range(int(sys.argv[1])):
    app.tasks["tests.fleet_app.late"].apply_async((n, 0.01), queue=sys.argv[2], task_id=f"published-{n}")
print("published", flush=True)
sys.stdin.read()
"""


def published(fleet: Fleet) -> int:
    return int(fleet.rows("SELECT count(*) FROM crisper_publish")[0][0])


@pytest.mark.parametrize("killed", [False, True], ids=["lives", "is killed"])
def test_what_was_published_while_the_registry_was_away_is_on_record_though_its_publisher(
    killed: bool, own_postgres: PrivatePostgres, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    count = 1500
    with fleet_on(own_postgres, request, tmp_path, track_publish="async") as fleet:
        with away(own_postgres):
            publisher = subprocess.Popen(
                [sys.executable, "-c", PUBLISHER, str(count), "nobody_consumes"],
                env=fleet.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert publisher.stdout is not None
            assert publisher.stdout.readline() == "published\n"
            wait_for("all is in the journal", lambda: len(of_publishes(fleet)) == count, 30)
            if killed:
                publisher.kill()
        if killed:
            fleet.worker("adopter", "-Q", "elsewhere")
        wait_for("all on record", lambda: published(fleet) == count, 30)
        replayed(fleet)
        publisher.kill()
        publisher.wait()


def test_a_worker_that_paused_goes_on_though_the_recorder_that_told_it_so_is_dead(
    own_postgres: PrivatePostgres, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with fleet_on(own_postgres, request, tmp_path, on_registry_down="pause") as fleet:
        worker = fleet.worker("only")
        with away(own_postgres):
            wait_for("it pauses", lambda: "takes no more messages" in worker.text(), 20)
            os.kill(worker.recorder(), signal.SIGSTOP)  # it will not hear that the registry is back
            recorder = worker.recorder()
        os.kill(recorder, signal.SIGKILL)
        sent = fleet.send("late", 1, 0.01)
        assert sent.get(timeout=30) == 1


def waiting(fleet: Fleet) -> int:
    """Messages in the queue."""
    with fleet.app.connection_for_read() as connection:
        return int(connection.default_channel._size("celery"))
