"""`crisper doctor`, on real servers: what it finds, what it does not, and that it changes nothing."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from crisper.core.states import State
from crisper.engine.doctor import registry
from crisper.engine.doctor.catalogue import CHECKS, examine
from crisper.faces.cli.doctor import show
from crisper.faces.cli.output import console
from crisper.faces.cli.place import Place
from crisper.store import migrate
from crisper.store.open import open_store
from crisper.store.sql import SqlStore
from tests.doctor.facts import QUICK, seen, with_app, with_registry
from tests.faces.doctored import (
    BAD_ON_RABBITMQ,
    BAD_ON_REDIS,
    CELERY,
    PLAIN,
    RECOMMENDED,
    bad_history,
    doctor,
    good_history,
    worker,
)
from tests.faces.scene import HOSTILE
from tests.faces.test_cli import assert_plain
from tests.left_out import needs
from tests.schema import set_revision
from tests.servers import PrivatePostgres, PrivateRedis
from tests.store.acting import Actor


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "proj.py").write_text(RECOMMENDED)
    (tmp_path / "plain.py").write_text(PLAIN)
    return tmp_path


@pytest.fixture
def places(project: Path, redis_url: str, disk: Path) -> dict[str, str]:
    """A registry with a good history, and a Redis; both are the environment of the app."""
    registry_url = f"sqlite:///{project}/registry.db"
    good_history(registry_url)
    return {"PROJ_REGISTRY": registry_url, "PROJ_JOURNAL": str(disk / "journal"), "PROJ_BROKER": redis_url}


def findings(result: subprocess.CompletedProcess[str]) -> dict[str, list[dict[str, Any]]]:
    """By id; nothing else may be on stdout."""
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in json.loads(result.stdout)["findings"]:
        assert list(finding) == ["id", "level", "title", "why", "fix"]
        found.setdefault(finding["id"], []).append(finding)
    return found


def hazards(result: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Ids and why."""
    return {
        id: " / ".join(one["why"] for one in some)
        for id, some in findings(result).items()
        if some[0]["level"] != "ok"
    }


def rows(url: str) -> list[Any]:
    tables = ("attempt", "incarnation", "recovery", "event", "publish", "leader", "order", "registry")
    with closing(open_store(url)) as store, store.db.write():
        return [sorted(map(repr, store.db.rows(f"SELECT * FROM crisper_{table}"))) for table in tables]


# -- the recommended app -----------------------------------------------------


def test_of_the_recommended_app_it_says_only_that_it_is_healthy(
    project: Path, places: dict[str, str]
) -> None:
    places["PROJ_BACKEND"] = places["PROJ_BROKER"]
    with worker(project, "proj", **places):
        before = rows(places["PROJ_REGISTRY"])[:1]
        result = doctor(project, "--grace", "1200", **places)
    assert (result.stdout, result.returncode) == ("healthy\n", 0), result.stdout + result.stderr
    assert rows(places["PROJ_REGISTRY"])[:1] == before


def test_of_the_recommended_app_on_rabbitmq_too(
    project: Path, places: dict[str, str], rabbitmq_vhost: str
) -> None:
    from kombu import Connection, Exchange

    places |= {"PROJ_BROKER": rabbitmq_vhost, "PROJ_BACKEND": places["PROJ_BROKER"]}
    with Connection(rabbitmq_vhost) as connection:
        Exchange("dead", type="fanout")(connection.default_channel).declare()
    with worker(project, "proj", **places):
        result = doctor(project, "--grace", "1200", "--json", **places)
    assert (hazards(result), result.returncode) == ({}, 0), result.stderr
    assert {"workers-without-crisper", "dead-letters", "quorum-qos"} <= set(findings(result))


# -- bad ones ----------------------------------------------------------------


@pytest.fixture
def bad_redis() -> Iterator[PrivateRedis]:
    with (
        needs("redis"),
        PrivateRedis(**{"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}) as server,
    ):
        yield server


@pytest.fixture
def small_postgres() -> Iterator[PrivatePostgres]:
    with needs("postgres"), PrivatePostgres(max_connections="10") as server:
        yield server


def test_of_a_bad_app_on_redis_it_finds_every_hazard(
    project: Path, bad_redis: PrivateRedis, small_postgres: PrivatePostgres, disk: Path
) -> None:
    (project / "proj.py").write_text(BAD_ON_REDIS)
    (disk / "file").touch()
    bad_history(small_postgres.url)
    places = {
        "PROJ_BROKER": bad_redis.url,
        "PROJ_REGISTRY": small_postgres.url,
        "PROJ_JOURNAL": str(disk / "file" / "journal"),
    }
    with worker(project, "plain", **places):
        before, keys = rows(small_postgres.url), set(redis.Redis.from_url(bad_redis.url).keys())
        result = doctor(project, "--json", **places)
        shown = doctor(project, **places)
        assert rows(small_postgres.url) == before
        assert set(redis.Redis.from_url(bad_redis.url).scan_iter()) <= keys
    found = hazards(result)
    assert result.returncode == shown.returncode == 1
    assert set(found) == {
        *("early-acks", "unlimited-requeue", "ignored-results", "not-resendable"),
        *("visibility-timeout", "visibility-timeout-short", "redis-evicts"),
        *("workers-without-crisper", "publishers-without-crisper", "versions", "versions-mixed"),
        *("connections", "prefetch", "lease-short", "leases-differ", "pauses", "grace"),
        *("journal-writable", "retention-for-ever", "pickle", "pickled-results", "no-password"),
    }, (found, result.stderr)
    assert "proj.slow took 90 s" in found["early-acks"]
    assert "proj.limited may keep others waiting for 40 min" in found["visibility-timeout"]
    assert "plain@test" in found["workers-without-crisper"]
    assert "1 of the newest 4 messages" in found["publishers-without-crisper"]
    assert "celery@paused" in found["pauses"]
    assert_plain(shown.stdout)
    for id in found:
        assert f"[{id}]" in " ".join(shown.stdout.split())
    assert shown.stdout.splitlines()[-1] == "9 errors, 13 warnings"


def test_a_journal_s_disk_that_is_too_small_or_goes_away_is_told(
    project: Path, places: dict[str, str]
) -> None:
    disk = Path("/dev/shm")
    if not disk.is_dir():
        pytest.skip("left out: no memory disk")
    given = {**places, "PROJ_JOURNAL": str(disk / "crisper"), "CRISPER_JOURNAL_MAX_BYTES": str(2**50)}
    result = doctor(project, "--grace", "1200", "--json", **given)
    assert {"journal-room", "journal-ephemeral"} <= set(hazards(result))


def test_of_a_bad_app_on_rabbitmq_it_finds_every_hazard(
    project: Path, places: dict[str, str], rabbitmq_vhost: str
) -> None:
    (project / "proj.py").write_text(BAD_ON_RABBITMQ)
    places |= {"PROJ_BROKER": rabbitmq_vhost, "PROJ_REGISTRY": f"sqlite:///{project}/bad.db"}
    bad_history(places["PROJ_REGISTRY"])
    result = doctor(project, "--json", **places)
    found = hazards(result)
    assert result.returncode == 1
    assert set(found) >= {
        *("management", "no-record", "unlimited-requeue", "ignored-results"),
        *("consumer-timeout", "quorum-qos", "dead-letters", "sqlite-shared"),
    }, (found, result.stderr)
    assert "proj.add waits for its ETA for" in found["consumer-timeout"]
    assert "proj.killer may keep others waiting for 40 min" in found["consumer-timeout"]
    assert "consumer_timeout is 60 s, of the queue proj" in found["consumer-timeout"]
    assert "the queue proj has a delivery limit of 3 and no dead-letter" in found["dead-letters"]
    assert "'nowhere' does not exist" in found["dead-letters"]
    assert "result_backend is not set" in found["ignored-results"]


def test_a_broker_that_delivers_again_after_the_retention_is_told(
    project: Path, places: dict[str, str]
) -> None:
    late = 'app.conf.broker_transport_options = {"visibility_timeout": 172_800}\n'
    (project / "proj.py").write_text(RECOMMENDED + late)
    result = doctor(project, "--grace", "1200", "--json", **places, CRISPER_RETENTION_DAYS="1")
    assert {"retention-short", "visibility-timeout-long"} <= set(hazards(result))


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def any_registry(request: pytest.FixtureRequest, sqlite_url: str) -> str:
    if request.param == "sqlite":
        return sqlite_url
    url: str = request.getfixturevalue(f"{request.param}_database")
    return url


def test_every_registry_tells_the_same(any_registry: str) -> None:
    bad_history(any_registry)
    told = registry.ask(any_registry)
    assert told.longest["proj.slow"] == 90.0
    assert told.countdowns["proj.add"] > 10 * 365 * 86_400
    assert told.chord_members == {"proj.add"}
    assert (told.received, told.unnamed) == (4, 1)
    assert [(one.count, one.largest) for one in told.not_kept] == [(1, 99_999_999)]
    assert 11 < told.largest_kept < 1000
    assert {w.hostname: w.crisper for w in told.workers} == {
        "celery@one": "0.1.0",
        "celery@two": "0.0.9",
        "celery@paused": None,
    }
    assert [pause.hostname for pause in told.pauses] == ["celery@paused"]
    assert told.just_ended == {"celery@paused"}
    assert told.version >= (3,)
    if told.connections is not None:
        assert told.connections.others >= 0
        assert told.connections.most > 50
    assert (told.connections is None) is (told.database == "sqlite")


def begun_before(store: SqlStore, task_id: str, seconds: float) -> None:
    with store.db.write():
        earlier = "UPDATE crisper_attempt SET started_at = started_at - ? WHERE task_id = ?"
        assert store.db.run(earlier, int(seconds * 1000), task_id) == 1


def test_a_task_that_was_lost_or_stopped_still_tells_how_long_it_ran(any_registry: str) -> None:
    migrate.upgrade(any_registry)
    with closing(open_store(any_registry)) as store:
        one = Actor(store)
        begun = one.runs("killed", "m1", name="proj.killed")
        begun_before(store, "killed", 240)
        one.loses_child(begun)
        begun = one.runs("stopped", "m2", name="proj.stopped")
        begun_before(store, "stopped", 300)
        one.finishes(begun, State.REVOKED)
        one.claims("waiting", "m3", name="proj.waiting")
        one.finishes(one.runs("done", "m4", name="proj.done"), State.SUCCEEDED, runtime_ms=9000)
        one.is_lost()
    told = registry.ask(any_registry)
    assert told.cut_short == {
        "proj.killed": pytest.approx(240, abs=5),
        "proj.stopped": pytest.approx(300, abs=5),
    }
    assert told.longest == {"proj.done": 9.0}


def test_how_long_nobody_saw_a_death_is_not_how_long_the_task_ran(any_registry: str) -> None:
    migrate.upgrade(any_registry)
    with closing(open_store(any_registry)) as store:
        one = Actor(store)
        one.runs("killed", "m1", name="proj.killed")
        begun_before(store, "killed", 86_400)
        with store.db.write():  # its host died a minute after that, and the whole fleet with it
            seen = "UPDATE crisper_incarnation SET seen_at = seen_at - ?"
            store.db.run(seen, 86_340_000)
        one.is_lost()
    assert registry.ask(any_registry).cut_short == {"proj.killed": pytest.approx(60, abs=5)}


@pytest.mark.parametrize(("step", "told"), [(60.0, True), (-60.0, True), (2.0, False)])
def test_the_offset_of_two_clocks_is_measured(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch, step: float, told: bool
) -> None:
    good_history(postgres_database)
    real = time.time
    monkeypatch.setattr(registry.time, "time", lambda: real() - step)
    offset = registry.ask(postgres_database).offset
    assert offset is not None
    assert offset == pytest.approx(step, abs=1.0)
    assert (abs(offset) > 5) is told


# -- what cannot be asked ----------------------------------------------------


def test_what_cannot_be_reached_is_a_finding_and_the_rest_is_looked_at(
    project: Path, places: dict[str, str]
) -> None:
    (project / "proj.py").write_text(BAD_ON_REDIS)
    places |= {"PROJ_BROKER": "redis://127.0.0.1:1/0", "PROJ_REGISTRY": "postgresql://127.0.0.1:1/x"}
    result = doctor(project, "--json", **places)
    found = hazards(result)
    assert result.returncode == 1
    assert {"broker", "registry", "pickle", "prefetch", "retention-for-ever"} <= set(found)
    assert "Traceback" not in result.stderr


def test_a_broker_and_a_registry_that_say_nothing_are_not_waited_for(
    project: Path, places: dict[str, str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        places |= {
            "PROJ_BROKER": f"redis://127.0.0.1:{port}/0",
            "PROJ_REGISTRY": f"postgresql://127.0.0.1:{port}/x",
        }
        began = time.monotonic()
        result = doctor(project, "--json", **places)
        took = time.monotonic() - began
    assert {"broker", "registry"} <= set(hazards(result))
    assert took < 25


def test_a_registry_that_is_missing_says_what_to_run(
    project: Path, places: dict[str, str], postgres_database: str
) -> None:
    places["PROJ_REGISTRY"] = postgres_database
    result = doctor(project, "--json", **places)
    assert findings(result)["schema"][0]["fix"] == "crisper -A proj migrate"
    assert result.returncode == 1


def test_a_file_that_the_first_worker_makes_is_no_hazard(project: Path, places: dict[str, str]) -> None:
    places["PROJ_REGISTRY"] = f"sqlite:///{project}/state/none.db"
    shown = " ".join(doctor(project, **places).stdout.split())
    assert "The registry is not made yet: the first worker makes" in shown
    result = doctor(project, "--json", **places)
    [told] = findings(result)["registry-folder"]
    assert told["level"] == "ok"
    assert not {"registry", "schema"} & set(hazards(result))
    assert not (project / "state").exists()


def test_a_file_that_no_worker_can_make_is_an_error(project: Path, places: dict[str, str]) -> None:
    (project / "file").touch()
    places["PROJ_REGISTRY"] = f"sqlite:///{project}/file/none.db"
    result = doctor(project, "--json", **places)
    assert result.returncode == 1
    assert str(project / "file") in findings(result)["registry-folder"][0]["fix"]


@pytest.mark.parametrize(
    ("revision", "fix"),
    [("0001", "crisper -A proj migrate"), ("9999", "pip install --upgrade celery-crisper")],
)
def test_a_registry_of_another_version_says_what_to_run(
    project: Path, places: dict[str, str], revision: str, fix: str
) -> None:
    set_revision(places["PROJ_REGISTRY"], revision)
    result = doctor(project, "--json", **places)
    assert findings(result)["schema"][0]["fix"] == fix
    assert result.returncode == 1


@pytest.mark.parametrize(
    ("change", "environment", "sentence"),
    [
        ("", {"CRISPER_LEASE": "1"}, "crisper_lease = 1 s is shorter than three heartbeats"),
        ("app.conf.crisper_leese = 1", {}, "Did you mean crisper_lease"),
        ("app.conf.include = ['nowhere']", {}, "the app's tasks cannot be loaded: ModuleNotFoundError"),
        ("def x(): ...\napp.task(name='x', crisper={'on_lots': 'fail'})(x)", {}, "Did you mean 'on_lost'"),
    ],
)
def test_input_that_makes_no_sense_is_usage(
    project: Path, places: dict[str, str], change: str, environment: dict[str, str], sentence: str
) -> None:
    (project / "proj.py").write_text(f"{RECOMMENDED}\n{change}\n")
    result = doctor(project, **places, **environment)
    assert result.returncode == 2
    assert sentence in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_the_embedded_broker_is_known_and_the_other_door_leads_here_too(
    project: Path, places: dict[str, str]
) -> None:
    folders = "dict.fromkeys(('data_folder_in', 'data_folder_out', 'control_folder'), 'queue')"
    embedded = f"{RECOMMENDED}\napp.conf.broker_transport_options = {folders}\n"
    (project / "proj.py").write_text(embedded)
    (project / "queue").mkdir()
    places |= {"PROJ_BROKER": "filesystem://", "PROJ_BACKEND": f"file://{project}"}
    result = doctor(project, "--grace", "1200", "--json", by=(CELERY, "-A", "proj", "crisper"), **places)
    assert (result.returncode, hazards(result)) == (0, {}), result.stderr


def test_it_needs_an_app(run: Any, sqlite_url: str) -> None:
    result = run(sqlite_url, "doctor")
    assert result.exit_code == 2
    assert "which app?" in result.stderr


def test_an_app_that_prints_does_not_break_the_json(project: Path, places: dict[str, str]) -> None:
    (project / "proj.py").write_text(RECOMMENDED + "\napp.conf.include = ['more']\nprint('hello')\n")
    (project / "more.py").write_text("print('hello again')\n")
    assert findings(doctor(project, "--json", **places))


def test_the_grace_period_may_stand_in_the_environment(project: Path, places: dict[str, str]) -> None:
    result = doctor(project, "--json", **places, TERMINATION_GRACE_PERIOD_SECONDS="10")
    assert "worker_soft_shutdown_timeout is 20 s, the grace period 10 s" in hazards(result)["grace"]


def test_what_names_hold_is_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    for name in HOSTILE:
        facts = with_app(seen(90.0), tasks=(replace(QUICK, name=name, acks_late=False, time_limit=90.0),))
        found = [finding for finding in examine(with_registry(facts, longest={})) if finding.why]
        assert {finding.id for finding in found} == {"early-acks", "grace"}
        show(console(Place("proj", None, None, False)), found)
        assert_plain(capsys.readouterr().out)


def test_an_app_that_installs_crisper_by_its_imports_keeps_a_record(
    project: Path, places: dict[str, str]
) -> None:
    with_autoload = RECOMMENDED.replace("crisper.install(app)", "app.conf.imports = ('crisper.autoload',)")
    (project / "proj.py").write_text(with_autoload)
    assert findings(doctor(project, "--json", **places))["no-record"][0]["level"] == "ok"


@pytest.mark.parametrize(("backend", "why"), [("rpc://", "takes no chords"), ("redis://localhost/0", "")])
def test_a_backend_that_takes_no_chord_is_told(
    project: Path, places: dict[str, str], backend: str, why: str
) -> None:
    found = hazards(doctor(project, "--json", **places, PROJ_BACKEND=backend))
    assert why in found.get("ignored-results", "")
    assert ("ignored-results" in found) is bool(why)


# -- the reference -----------------------------------------------------------


def test_every_check_stands_in_the_reference_as_it_is() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "reference" / "doctor.md"
    rows = [f"| `{check.id}` | {check.level} | {check.what} | {check.cure} |" for check in CHECKS]
    shown = [line for line in page.read_text().splitlines() if line.startswith("| `")]
    assert shown == rows, "\n".join(rows)
