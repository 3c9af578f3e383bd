"""The recorder: killed, paused, outliving nobody, small, and holding two connections."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from crisper.store.migrate import upgrade
from tests.acceptance.conftest import broker_urls
from tests.acceptance.recorder_kills import kill_recorders
from tests.acceptance.watching import is_running, losses, resident_mb
from tests.fleet import Fleet, Worker, wait_for


@pytest.fixture
def on_postgres(request: pytest.FixtureRequest, postgres_database: str, tmp_path: Path) -> Iterator[Fleet]:
    """Redis and PostgreSQL, as in production."""
    upgrade(postgres_database)
    fleet = Fleet(tmp_path, **broker_urls("redis", request), registry=postgres_database)
    yield fleet
    fleet.close()


@pytest.fixture
def on_redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, **broker_urls("redis", request))
    yield fleet
    fleet.close()


def connections(fleet: Fleet, worker: Worker) -> int:
    url = fleet.registry_url.replace("+psycopg", "")
    sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()"
    with psycopg.connect(url) as connection:
        row = connection.execute(sql, (f"crisper {worker.name}@test",)).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.timeout(120)
def test_a_recorder_killed_under_load_harms_no_task_loses_no_record_and_declares_nothing(
    on_postgres: Fleet,
) -> None:
    worker = on_postgres.worker("loaded", "-c", "4")
    figures = kill_recorders(on_postgres, worker, 5, seed=os.getpid())
    assert figures.nothing_harmed, figures
    assert on_postgres.incarnations() == {"loaded": ["alive"]}
    assert connections(on_postgres, worker) == 2
    assert on_postgres.errors() == []


@pytest.mark.timeout(120)
def test_a_worker_holds_two_connections_and_a_small_recorder_whatever_its_concurrency(
    on_postgres: Fleet,
) -> None:
    workers = [
        on_postgres.worker("two", "-c", "2", "-Q", "two"),
        on_postgres.worker("eight", "-c", "8", "-Q", "eight"),
        on_postgres.worker("fifty", "-c", "50", "-P", "threads", "-Q", "fifty"),
    ]
    sent = [on_postgres.send("noop", key, queue=worker.name).id for key in range(700) for worker in workers]
    finished = "SELECT count(*) FROM crisper_attempt WHERE state = 'succeeded'"
    most = dict.fromkeys((worker.name for worker in workers), 0)

    def all_finished() -> bool:
        for worker in workers:
            most[worker.name] = max(most[worker.name], connections(on_postgres, worker))
        return bool(on_postgres.rows(finished)[0][0] == len(sent))

    wait_for("2,100 tasks finished", all_finished, 60)
    assert most == {"two": 2, "eight": 2, "fifty": 2}
    sizes = {worker.name: resident_mb(worker.recorder()) for worker in workers}
    print("recorders on PostgreSQL, in MB:", sizes)
    assert max(sizes.values()) < 45
    assert on_postgres.errors() == []


def test_a_recorder_on_the_embedded_registry_stays_small_and_says_whose_it_is(on_redis: Fleet) -> None:
    worker = on_redis.worker("small")
    sent = [on_redis.send("noop", key).id for key in range(2000)]
    finished = "SELECT count(*) FROM crisper_attempt WHERE state = 'succeeded'"
    wait_for("2,000 tasks finished", lambda: on_redis.rows(finished)[0][0] == len(sent), 50)
    recorder = worker.recorder()
    size = resident_mb(recorder)
    print(f"recorder on SQLite: {size:.1f} MB")
    assert size < 45
    shown = subprocess.run(
        ["ps", "-o", "args=", "-p", str(recorder)], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip().endswith("-m crisper.recorder small@test")
    assert os.getsid(recorder) == recorder  # of its own, so that a signal to the worker's group misses it


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_recorder_that_stopped_answering_is_replaced_and_the_tasks_it_held_up_finish_once(
    on_postgres: Fleet,
) -> None:
    worker = on_postgres.worker("stopped")
    first = worker.recorder()
    running = on_postgres.send("late", 1, "open").id
    wait_for("running on record", lambda: on_postgres.attempts(running) == [(1, "running")])
    os.kill(first, signal.SIGSTOP)
    sent = [on_postgres.send(name, key, 0).id for key in range(5) for name in ("late", "early")]
    (on_postgres.folder / "open").touch()
    wait_for("another recorder", lambda: worker.recorders() not in ([first], []), 25)
    wait_for("all finished", lambda: {line.task_id for line in on_postgres.ends()} == {running, *sent}, 30)
    wait_for("no attempt left open", lambda: on_postgres.open_attempts() == 0)
    assert all(on_postgres.attempts(id) == [(1, "succeeded")] for id in (running, *sent))
    assert on_postgres.run_twice() == []
    assert not is_running(first)
    assert connections(on_postgres, worker) == 2
    assert losses(on_postgres) == 0


def _term(worker: Worker) -> None:
    worker.send_signal(signal.SIGTERM)


def _cold(worker: Worker) -> None:
    worker.send_signal(signal.SIGQUIT)


def _kill(worker: Worker) -> None:
    worker.send_signal(signal.SIGKILL)


def _kill_group(worker: Worker) -> None:
    os.killpg(worker.pid, signal.SIGKILL)


def _kill_children_first(worker: Worker) -> None:
    for pid in worker.pool():
        os.kill(pid, signal.SIGKILL)
    worker.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("end", [_term, _cold, _kill, _kill_group, _kill_children_first])
def test_the_recorder_is_gone_once_its_worker_has_ended(
    on_redis: Fleet, end: Callable[[Worker], None]
) -> None:
    worker = on_redis.worker("ends")
    on_redis.send("late", 1, "never" if end is not _term else 0.1)
    wait_for("begun", on_redis.starts)
    family = [worker.recorder(), *worker.pool()]
    end(worker)
    worker.process.wait(20)
    wait_for("nothing of it left", lambda: not any(is_running(pid) for pid in family), 3.0)
    state = "gone" if end in (_term, _cold) else "lost"
    assert on_redis.incarnations() == {"ends": [state]}
    assert on_redis.open_attempts() == 0
