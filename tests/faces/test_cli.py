"""The command line: shapes, sentences, exit codes, and what it does to a terminal."""

from __future__ import annotations

import json
import re
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from crisper.core.model import Published
from crisper.core.states import RecoveryState, State, VerdictKind
from crisper.faces.cli.group import COMMANDS
from crisper.store import migrate
from crisper.store.open import open_store
from crisper.store.version import HEAD_REVISION
from tests.faces.conftest import Run, read
from tests.faces.scene import HOSTILE, INJECTIONS, KEPT, Scene, new_id
from tests.schema import set_revision
from tests.store.acting import PULSE, SCOPE, TOO_LARGE, Actor

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
TASK_KEYS = [
    *("task_id", "name", "state", "attempt", "worker", "queue"),
    *("received_at", "started_at", "finished_at"),
]
WORKER_KEYS = [
    *("id", "hostname", "host", "pid", "state", "started_at", "seen_at", "ended_at", "lease_ms"),
    *("open_attempts", "queues", "pool", "concurrency", "version", "evidence"),
    *("errors", "refused", "held", "journal_bytes", "loop_age_ms", "ails", "running", "leads"),
]


def assert_plain(text: str) -> None:
    """80 columns, and nothing in it that a terminal would obey."""
    from rich.cells import cell_len

    assert all(cell_len(line) <= 80 for line in text.splitlines()), text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", text)


# -- shapes ------------------------------------------------------------------


def test_status_has_the_documented_shape(run: Run, read_scene: Scene) -> None:
    answer = read(run(read_scene.url, "status", "--json"))
    assert {key: list(value) for key, value in answer.items()} == {
        "registry": ["id", "url", "database", "schema", "now"],
        "workers": [
            *("alive", "suspect", "lost", "gone", "wedged", "silent", "stalled"),
            *("errors", "journal_bytes", "versions", "blind"),
        ],
        "messages": ["unclaimed", "unconsumed"],
        "attempts": ["claimed", "running"],
        "tasks": ["quarantined", "held", "lost_24h", "recovered_24h"],
        "sweeper": ["leader", "worker", "state", "since", "workers_to_clear", "recoveries_under_way"],
    }
    assert answer["workers"]["blind"] is None  # without an app there is no broker to ask
    assert TIME.fullmatch(answer["registry"]["now"])


def test_status_says_of_a_leader_that_is_lost_that_nobody_leads(run: Run, scene: Scene) -> None:
    leader = Actor(scene.store, hostname="celery@leads")
    assert scene.store.campaign("sweeper", leader.id, scene.store.term("sweeper"))
    assert "sweeper    celery@leads leads since" in run(scene.url, "status").stdout
    leader.is_lost()
    assert "sweeper    nobody leads; celery@leads, which did, is lost\n" in run(scene.url, "status").stdout


def test_status_says_where_nobody_takes_what_is_brought_back(run: Run, scene: Scene) -> None:
    lost = Actor(scene.store, hostname="celery@last", about={"queues": ["other"]})
    for n in range(3):
        lost.runs(f"t{n}", f"m{n}", queue="other", message=KEPT)
    lost.runs("elsewhere", "m-elsewhere", queue="mail", message=KEPT)
    lost.is_lost()
    for case in scene.store.take_cases(scene.one.id, SCOPE, limit=10):
        decided = scene.store.decide(case.recovery, VerdictKind.HAND_BACK, "so", {}, by="celery@one")
        assert decided is not None
        assert scene.store.complete(decided, by="celery@one", data={})
    told = "3 tasks recovering in other, and no live worker says that it consumes from there:"
    shown = " ".join(run(scene.url, "status").stdout.split())
    assert f"{told} crisper --registry URL queues" in shown
    assert read(run(scene.url, "status", "--json"))["messages"]["unconsumed"] == [
        {"queue": "other", "recovering": 3}
    ]
    Actor(scene.store, about={"queues": ["other"]})
    assert "recovering in" not in run(scene.url, "status").stdout


def test_a_queue_of_the_same_name_at_another_broker_takes_nothing(run: Run, scene: Scene) -> None:
    lost = Actor(scene.store, about={"queues": ["other"]})
    lost.runs("t", "m", queue="other", message=KEPT)
    lost.is_lost()
    Actor(scene.store, scope="elsewhere", about={"queues": ["other"]})
    assert "1 task recovering in other" in run(scene.url, "status").stdout


def test_many_queues_without_workers_are_not_all_named(run: Run, scene: Scene) -> None:
    lost = Actor(scene.store)
    for n in range(8):
        lost.runs(f"t{n}", f"m{n}", queue=f"q{n}", message=KEPT)
    lost.is_lost()
    shown = " ".join(run(scene.url, "status").stdout.split())
    assert "1 task recovering in q4" in shown
    assert "q5" not in shown
    assert "3 tasks recovering in 3 more queues that no live worker consumes: crisper" in shown


def test_workers_have_the_documented_shape(run: Run, read_scene: Scene) -> None:
    answer = read(run(read_scene.url, "workers", "--json"))
    assert list(answer) == ["workers"]
    assert all(list(worker) == WORKER_KEYS for worker in answer["workers"])


def test_tasks_have_the_documented_shape(run: Run, read_scene: Scene) -> None:
    answer = read(run(read_scene.url, "tasks", "--limit", "2", "--json"))
    assert list(answer) == ["tasks", "next", "looked_back_to"]
    assert all(list(task) == TASK_KEYS for task in answer["tasks"])
    rest = read(run(read_scene.url, "tasks", "--cursor", answer["next"], "--json"))
    assert rest["next"] is None
    assert len(rest["tasks"]) == len(read_scene.ids) - 2


def test_show_has_the_documented_shape(run: Run, read_scene: Scene) -> None:
    answer = read(run(read_scene.url, "show", read_scene.ids["recovered"], "--json"))
    assert list(answer) == [
        *("task_id", "name", "state", "args_preview", "kwargs_preview"),
        *("attempts", "verdicts", "recoveries", "events", "checkpoint"),
    ]
    assert list(answer["attempts"][0]) == [
        *("number", "state", "worker", "pid"),
        *("received_at", "started_at", "finished_at", "runtime", "reason", "progress", "memory_bytes"),
    ]
    verdict = ["attempt", "verdict", "reason", "evidence", "decided_by", "decided_at"]
    assert list(answer["verdicts"][0]) == verdict
    assert list(answer["recoveries"][0]) == ["attempt", "action", "state", "sent_at"]
    assert list(answer["events"][0]) == ["at", "kind", "attempt", "worker", "actor", "data"]


def test_migrate_says_what_it_did(run: Run, sqlite_url: str) -> None:
    answer = read(run(sqlite_url, "migrate", "--json"))
    assert answer == {"registry": sqlite_url, "schema": HEAD_REVISION, "up_to_date": True}
    assert "CREATE TABLE crisper_attempt" in read(run(sqlite_url, "migrate", "--sql", "--json"))["sql"]


def test_show_tells_of_a_task_that_was_published_and_waits(run: Run, scene: Scene) -> None:
    waiting = Published("m-waits", "waits", SCOPE, "shop.charge", "mail", 0, 3, TOO_LARGE, "[42]", "{}")
    assert read(run(scene.url, "status", "--json"))["messages"]["unclaimed"] == 0
    scene.store.publish([waiting], due_in_ms=0)
    answer = read(run(scene.url, "show", "waits", "--json"))
    assert list(answer) == [
        *("task_id", "name", "state", "queue", "published_at", "args_preview", "kwargs_preview")
    ]
    assert (answer["state"], answer["args_preview"]) == ("published", [42])
    told = " ".join(run(scene.url, "show", "waits").stdout.split())
    assert re.search("published at .* to the queue mail, and no worker has claimed it", told)
    assert read(run(scene.url, "status", "--json"))["messages"]["unclaimed"] == 1
    scene.store.publish([waiting._replace(message_id="m-too", task_id="too")], due_in_ms=3_600_000)
    assert read(run(scene.url, "status", "--json"))["messages"]["unclaimed"] == 2
    [taken] = scene.store.take_unclaimed(SCOPE, limit=1)
    scene.store.declare_vanished([("m-waits", taken.until)], by="w", evidence={"looks": 2}, due_in_ms=0)
    told = " ".join(run(scene.url, "show", "waits").stdout.split())
    assert "vanished: nobody claimed it, and the broker has it no more (by w)" in told
    assert "claimed by" not in told


# -- for people --------------------------------------------------------------


def test_a_password_on_the_command_line_is_warned_of(run: Run) -> None:
    told = run("postgresql://ann:hunter2@127.0.0.1:1/none", "status").stderr
    assert "others on this host can read the password" in told
    assert "hunter2" not in told
    assert "password" not in run("postgresql://ann@127.0.0.1:1/none", "status").stderr


@pytest.mark.parametrize("command", ["status", "workers", "tasks"])
def test_what_people_see_fits_a_terminal(run: Run, read_scene: Scene, command: str) -> None:
    result = run(read_scene.url, command)
    assert result.exit_code == 0
    assert_plain(result.stdout.replace(read_scene.url, "URL"))


def test_how_far_a_running_task_is_stands_in_its_story(run: Run, read_scene: Scene) -> None:
    shown = run(read_scene.url, "show", read_scene.ids["running"]).stdout
    assert_plain(shown)
    assert "#1  progress: 3 of 7: [red]reads" in shown
    [attempt] = read(run(read_scene.url, "show", read_scene.ids["running"], "--json"))["attempts"]
    progress = attempt["progress"]
    assert attempt["memory_bytes"] == 412 << 20
    assert "celery@one, 412 MiB of memory" in " ".join(shown.split())
    assert list(progress) == ["done", "total", "note", "at"]
    assert (progress["done"], progress["total"], progress["note"]) == (3, 7, "[red]reads")


def test_the_story_is_told_in_order_with_its_reasons(run: Run, read_scene: Scene) -> None:
    result = run(read_scene.url, "show", read_scene.ids["recovered"])
    assert_plain(result.stdout)
    told = re.sub(r"\s+", " ", result.stdout)
    order = [
        "#1 claimed by celery@two",
        "#1 running in process 4242 of celery@two",
        "#1 lost (by sweeper) evidence: worker: celery@two, how: silence",
        "#1 verdict: resend, because the reason of recovered",
        "#1 carried out: resend (by celery@one)",
        "#2 claimed by celery@one",
        "#2 succeeded",
    ]
    places = [told.index(sentence) for sentence in order]
    assert places == sorted(places)


def test_the_beginning_of_an_id_will_do(run: Run, read_scene: Scene) -> None:
    task_id = read_scene.ids["held"]
    assert task_id in run(read_scene.url, "show", task_id[:8]).stdout


def test_a_beginning_of_two_ids_names_both(run: Run, scene: Scene) -> None:
    twins = ["twins-in-every-letter-1", "twins-in-every-letter-2"]
    for twin in twins:
        scene.one.claims(twin, twin)
    result = run(scene.url, "show", "twins-in")
    assert result.exit_code == 1
    assert all(twin in result.stderr for twin in twins)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_neither_breaks_nor_colours_the_terminal(run: Run, scene: Scene, name: str) -> None:
    scene.one.runs(name, "m", name=name, queue=name, args_preview=f'["{name[:50]}"]')
    listed = run(scene.url, "tasks", "--limit", "3")
    assert listed.exit_code == 0, listed.output
    assert_plain(listed.stdout.rpartition("--cursor")[0])
    shown = run(scene.url, "show", name)
    assert shown.exit_code == 0, shown.output
    assert_plain(shown.stdout)
    assert all(" " <= char <= "~" for char in run(scene.url, "tasks", "--json").stdout.replace("\n", ""))


def test_nothing_on_record_is_a_sentence_too(run: Run, sqlite_url: str) -> None:
    migrate.upgrade(sqlite_url)
    assert "No worker is on record" in run(sqlite_url, "workers").stdout
    assert "No task is on record yet" in run(sqlite_url, "tasks").stdout
    assert "No such task" in run(sqlite_url, "tasks", "--state", "held").stdout
    assert read(run(sqlite_url, "tasks", "--json")) == {"tasks": [], "next": None, "looked_back_to": None}


def test_every_command_teaches_by_example(run: Run, sqlite_url: str) -> None:
    for command in COMMANDS:
        result = run(sqlite_url, command, "--help")
        if command == "demo" and result.exit_code == 2:
            continue  # not in this installation
        assert result.exit_code == 0, command
        needs_an_app = command not in ("demo", "completion")
        assert f"crisper {'-A proj ' if needs_an_app else ''}{command}" in result.stdout
        assert_plain(result.stdout)


# -- bad input ---------------------------------------------------------------


def assert_refused(result: Any, code: int, sentence: str) -> None:
    assert result.exit_code == code, result.output
    assert re.search(sentence, re.sub(r"\s+", " ", result.stderr)), result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["show", "recover", "discard", "stop"])
def test_an_unknown_id_is_a_sentence(run: Run, read_scene: Scene, command: str) -> None:
    assert_refused(run(read_scene.url, command, new_id()), 1, "no task .*is on record")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--cursor", "!"], "no cursor of ours"),
        (["--older-than", "5"], "'5' is no age: .*10m"),
        (["--older-than", "-5m"], "'-5m' is no age"),
        (["--state", "lots"], "no task is ever 'lots'; the states are .*quarantined"),
        (["--limit", "0"], "1<=x<=1000"),
        (["--limit", "many"], "not a valid integer"),
        (["--name", "*a" * 7], "6 stars"),
        (["--nmae", "x"], "--name"),
    ],
)
def test_a_filter_that_makes_no_sense_is_a_usage_error(
    run: Run, read_scene: Scene, arguments: list[str], sentence: str
) -> None:
    assert_refused(run(read_scene.url, "tasks", *arguments), 2, sentence)


@pytest.mark.parametrize("text", INJECTIONS)
@pytest.mark.parametrize("option", ["--worker", "--queue", "--name"])
def test_a_hostile_filter_is_harmless(run: Run, read_scene: Scene, option: str, text: str) -> None:
    result = run(read_scene.url, "tasks", option, text, "--json")
    if option == "--name" and len(text) > 512:
        assert_refused(result, 2, "512 characters")
    else:
        assert read(result) == {"tasks": [], "next": None, "looked_back_to": None}


@pytest.mark.parametrize("command", ["status", "workers", "tasks", "show x", "sweep", "recover x", "migrate"])
def test_an_unreachable_registry_is_69_and_keeps_its_password(run: Run, command: str) -> None:
    result = run("postgresql://ann:hunter2@127.0.0.1:1/db", *command.split(), "--json")
    assert_refused(result, 69, "127.0.0.1")
    assert "hunter2" not in result.output


@pytest.mark.parametrize("command", ["status", "tasks", "show x", "sweep", "recover x", "migrate --check"])
def test_a_missing_schema_says_what_to_run(run: Run, sqlite_url: str, command: str) -> None:
    assert_refused(run(sqlite_url, *command.split()), 1, "crisper migrate")


@pytest.mark.parametrize(("version", "sentence"), [("0000", "crisper migrate"), ("9999", "newer Crisper")])
@pytest.mark.parametrize("command", ["status", "discard x", "migrate --check"])
def test_another_schema_says_what_to_do(
    run: Run, sqlite_url: str, version: str, sentence: str, command: str
) -> None:
    migrate.upgrade(sqlite_url)
    set_revision(sqlite_url, version)
    assert_refused(run(sqlite_url, *command.split()), 1, sentence)


@pytest.mark.parametrize("url", ["oracle://db/x", "nonsense", "sqlite://", "postgresql://h:port/d"])
def test_a_url_that_is_none_says_how_to_write_one(run: Run, url: str) -> None:
    assert_refused(run(url, "status"), 2, "registry_url .*(postgresql|sqlite):")


def test_an_unknown_setting_names_the_one_that_was_meant(run: Run, sqlite_url: str) -> None:
    result = run(sqlite_url, "status", env={"CRISPER_LEESE": "30"})
    assert_refused(result, 2, "CRISPER_LEESE. Did you mean CRISPER_LEASE")


def test_a_lease_that_makes_no_sense_says_what_to_set(run: Run, sqlite_url: str) -> None:
    assert_refused(run(sqlite_url, "status", env={"CRISPER_LEASE": "5"}), 2, "Set crisper_lease to 12")


def test_an_app_that_cannot_be_loaded_is_a_sentence(run: Run, sqlite_url: str, tmp_path: Path) -> None:
    assert_refused(run(sqlite_url, "-A", "no_such_app", "status"), 2, "no module 'no_such_app'")
    assert_refused(run(sqlite_url, "-A", "json:dumps", "status"), 2, "is a function, not a Celery app")


def test_an_option_of_the_group_after_the_command_says_where_it_goes(run: Run, sqlite_url: str) -> None:
    assert_refused(run(sqlite_url, "status", "-A", "proj"), 2, "-A goes before the command")


def test_a_misspelt_command_names_the_one_that_was_meant(run: Run, sqlite_url: str) -> None:
    assert_refused(run(sqlite_url, "statsu"), 2, "Did you mean 'status'")


def test_check_and_sql_exclude_each_other(run: Run, sqlite_url: str) -> None:
    assert_refused(run(sqlite_url, "migrate", "--check", "--sql"), 2, "exclude each other")


def test_a_command_leaves_no_thread_behind(run: Run, scene: Scene) -> None:
    before = set(threading.enumerate())
    assert run(scene.url, "discard", scene.ids["held"], "--reason", "no need").exit_code == 0
    for left in set(threading.enumerate()) - before:
        left.join(5)
        assert not left.is_alive(), left


def test_ctrl_c_is_130(run: Run, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from crisper.engine.survey import Survey

    def interrupted(self: Survey) -> None:
        raise KeyboardInterrupt

    migrate.upgrade(sqlite_url)
    monkeypatch.setattr(Survey, "status", interrupted)
    assert_refused(run(sqlite_url, "status"), 130, "interrupted")


def test_a_bug_of_ours_is_a_sentence_that_asks_for_a_report(
    run: Run, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crisper.engine.survey import Survey

    monkeypatch.setattr(Survey, "status", lambda self: 1 / 0)
    assert_refused(run(sqlite_url, "status"), 1, "internal error: ZeroDivisionError.*--traceback")
    assert isinstance(run(sqlite_url, "--traceback", "status").exception, ZeroDivisionError)


# -- deciding ----------------------------------------------------------------


def recovery_of(scene: Scene, name: str) -> Any:
    case = scene.store.case(scene.ids[name], 1)
    assert case is not None
    return case.recovery


@pytest.mark.parametrize("name", ["quarantined", "held", "failed by policy", "discarded"])
def test_recover_without_an_app_decides_and_leaves_it_to_a_live_worker(
    run: Run, scene: Scene, name: str
) -> None:
    result = run(scene.url, "recover", scene.ids[name], "--reason", "the disk is fixed")
    assert result.exit_code == 0, result.output
    assert "a live worker of its app sends it" in result.stdout
    recovery = recovery_of(scene, name)
    assert (recovery.state, recovery.verdict, recovery.reason) == ("decided", "recover", "the disk is fixed")
    assert "@" in recovery.decided_by
    taken = scene.store.take_cases(scene.one.id, recovery.scope, limit=100)
    assert scene.ids[name] in {case.recovery.task_id for case in taken}  # at once, not after a while


@pytest.mark.parametrize(
    ("name", "code", "sentence"),
    [
        ("running", 75, "attempt 1 is running on celery@one"),
        ("claimed", 75, "attempt 1 is claimed on celery@one"),
        ("succeeded", 75, "it is over: its attempt 1 succeeded"),
        ("recovered", 75, "it is over: its attempt 2 succeeded"),
        ("recovering", 75, "is recovering it already"),
        ("settled", 75, "its recovery is done: the reason of settled"),
        ("not kept", 1, r"not kept \(95.4 MiB > 16 MiB\)"),
    ],
)
def test_recover_refuses_what_could_run_twice_and_says_why(
    run: Run, read_scene: Scene, name: str, code: int, sentence: str
) -> None:
    for option in ([], ["--dry-run"]):
        assert_refused(run(read_scene.url, "recover", read_scene.ids[name], *option), code, sentence)


@pytest.mark.parametrize("name", ["quarantined", "held", "not kept"])
def test_discard_closes_for_good(run: Run, scene: Scene, name: str) -> None:
    answer = read(run(scene.url, "discard", scene.ids[name], "--json"))
    assert answer == {
        "tasks": [
            {"task_id": scene.ids[name], "outcome": "done", "reason": "is closed for good", "attempt": 1}
        ]
    }
    assert read(run(scene.url, "show", scene.ids[name], "--json"))["state"] == "discarded"
    assert_refused(run(scene.url, "discard", scene.ids[name]), 1, "discarded already")


@pytest.mark.parametrize(
    ("name", "sentence"), [("running", "is running"), ("failed by policy", "only a quarantined")]
)
def test_discard_refuses_what_does_not_wait_for_a_person(
    run: Run, read_scene: Scene, name: str, sentence: str
) -> None:
    assert_refused(run(read_scene.url, "discard", read_scene.ids[name]), 75, sentence)


@pytest.mark.parametrize("verb", ["recover", "discard", "stop"])
def test_a_dry_run_changes_nothing(run: Run, scene: Scene, verb: str) -> None:
    names = ["quarantined", "held"]
    answer = read(run(scene.url, verb, *(scene.ids[n] for n in names), "--dry-run", "--json"))
    assert [task["outcome"] for task in answer["tasks"]] == ["possible", "possible"]
    assert [recovery_of(scene, n).state for n in names] == [RecoveryState.QUARANTINED, RecoveryState.HELD]


@pytest.mark.parametrize("verb", ["recover", "discard", "stop"])
def test_several_ids_need_a_yes(run: Run, scene: Scene, verb: str) -> None:
    both = scene.ids["quarantined"], scene.ids["held"]
    assert_refused(run(scene.url, verb, *both), 75, f"{verb} 2 tasks without asking. Say --yes")
    assert recovery_of(scene, "held").state is RecoveryState.HELD
    assert run(scene.url, verb, *both, "--yes").exit_code == 0
    assert recovery_of(scene, "held").state is not RecoveryState.HELD


@pytest.mark.parametrize("name", ["running", "claimed", "released", "rejected", "retried"])
def test_stop_orders_what_is_open_or_may_come_again(run: Run, scene: Scene, name: str) -> None:
    open_one = name in ("running", "claimed")
    for _ in range(2):
        result = run(scene.url, "stop", scene.ids[name], "--reason", "the wrong customer")
        assert result.exit_code == 0, result.output
        where = "its worker does so" if open_one else "it is not running now"
        assert where in " ".join(result.stdout.split())
    told = [order.why for order in scene.store.orders(scene.one.id)]
    assert len(told) == open_one
    assert all(why.endswith(": the wrong customer") and "@" in why for why in told)
    story = read(run(scene.url, "show", scene.ids[name], "--json"))
    [event] = [event for event in story["events"] if event["kind"] == "stop"]
    assert (event["attempt"], event["data"]["reason"]) == (1, "the wrong customer")
    assert "ordered to stop, because the wrong customer (by" in run(scene.url, "show", scene.ids[name]).stdout


@pytest.mark.parametrize("name", ["recovering", "quarantined", "held", "not kept"])
def test_stop_decides_about_what_was_lost_and_leaves_the_rest_to_a_live_worker(
    run: Run, scene: Scene, name: str
) -> None:
    result = run(scene.url, "stop", scene.ids[name], "--reason", "no use any more")
    assert result.exit_code == 0, result.output
    assert "decided; a live worker of its app tells its callers" in " ".join(result.stdout.split())
    recovery = recovery_of(scene, name)
    assert (recovery.state, recovery.verdict, recovery.reason) == ("decided", "revoked", "no use any more")
    taken = scene.store.take_cases(scene.one.id, recovery.scope, limit=100)
    assert scene.ids[name] in {case.recovery.task_id for case in taken}
    assert read(run(scene.url, "show", scene.ids[name], "--json"))["state"] == "revoked"
    assert scene.ids[name] in run(scene.url, "tasks", "--state", "revoked", "--json").stdout
    assert_refused(run(scene.url, "stop", scene.ids[name]), 1, "it is over: .*revoked")
    assert_refused(run(scene.url, "recover", scene.ids[name]), 75, "its callers are being told")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("succeeded", "it is over: its attempt 1 succeeded"),
        ("revoked", "it is over: its attempt 1 is revoked"),
        ("recovered", "it is over: its attempt 2 succeeded"),
        ("settled", "it is over: the task is settled"),
        ("discarded", "it is over: .*discarded"),
        ("failed by policy", "it is over: .*failed"),
    ],
)
def test_stop_says_what_is_over(run: Run, read_scene: Scene, name: str, sentence: str) -> None:
    for option in ([], ["--dry-run"]):
        assert_refused(run(read_scene.url, "stop", read_scene.ids[name], *option), 1, sentence)


@pytest.mark.parametrize("pool", ["prefork", "processes", "gevent"])
def test_stop_takes_an_order_for_what_runs_where_one_body_can_be_ended(
    run: Run, scene: Scene, pool: str
) -> None:
    Actor(scene.store, hostname="celery@inside", about={"pool": pool}).runs("runs", "m1")
    assert run(scene.url, "stop", "runs").exit_code == 0


@pytest.mark.parametrize("pool", ["thread", "eventlet", "solo"])
def test_stop_refuses_what_runs_where_none_can(run: Run, scene: Scene, pool: str) -> None:
    inside = Actor(scene.store, hostname="celery@inside", about={"pool": pool})
    inside.runs("runs", "m1")
    inside.claims("waits", "m2")
    assert_refused(
        run(scene.url, "stop", "runs"), 75, f"process of celery@inside .pool: {pool}.*end that worker"
    )
    assert run(scene.url, "stop", "waits").exit_code == 0
    inside.is_declared()  # a worker that is gone runs nothing
    assert run(scene.url, "stop", "runs").exit_code == 0


def test_recover_undoes_a_stop(run: Run, scene: Scene) -> None:
    held = scene.one.runs("stopped", "m-stopped", message=KEPT)
    scene.store.stop("stopped", by="ann@desk", reason="by mistake")
    scene.one.finishes(held, State.REVOKED, reason="stopped by ann@desk: by mistake")
    assert "recover stopped" in run(scene.url, "show", "stopped").stdout
    assert run(scene.url, "recover", "stopped").exit_code == 0
    assert read(run(scene.url, "show", "stopped", "--json"))["state"] == "recovering"
    assert "stopped" in run(scene.url, "tasks", "--state", "recovering", "--json").stdout
    assert scene.one.asks(scene.one.wants("stopped", "m-stopped")).kind == "granted"


def test_each_id_is_answered_on_its_own(run: Run, scene: Scene) -> None:
    ids = [scene.ids["running"], scene.ids["held"], scene.ids["held"], new_id()]
    result = run(scene.url, "recover", "--yes", "--json", *ids)
    assert result.exit_code == 1
    outcomes = [task["outcome"] for task in json.loads(result.stdout)["tasks"]]
    assert outcomes == ["refused", "done", "not_found"]


# -- sweeping ----------------------------------------------------------------


def dead_worker(scene_url: str) -> str:
    """A worker with a short lease that never renews it, from a host that is not ours, and its task."""
    with closing(open_store(scene_url)) as store:
        actor = Actor(store, hostname="celery@dead", lease_ms=600, boot_id="elsewhere")
        actor.runs("t-dead", "m")
        return actor.id


def test_a_sweep_declares_what_is_silent_for_a_lease_and_closes_its_attempts(
    run: Run, sqlite_url: str
) -> None:
    migrate.upgrade(sqlite_url)
    id = dead_worker(sqlite_url)
    environment = {"CRISPER_SWEEP_INTERVAL": "0.1"}
    expected = {"id": id, "hostname": "celery@dead", "how": "silence", "open_attempts": 1}
    rehearsed = read(run(sqlite_url, "sweep", "--dry-run", "--json", env=environment))
    assert rehearsed == {
        "dry_run": True,
        "alive": 0,
        "declared": [expected],
        "closed": 1,
        "braked": False,
        "journals": 0,
    }
    assert read(run(sqlite_url, "workers", "--json"))["workers"][0]["state"] in ("alive", "suspect")
    swept = read(run(sqlite_url, "sweep", "--json", env=environment))
    assert swept == {**rehearsed, "dry_run": False, "declared": [{**expected, "open_attempts": 0}]}
    assert read(run(sqlite_url, "show", "t-dead", "--json"))["state"] == "recovering"


def test_a_sweep_ends_as_soon_as_everybody_was_seen_to_renew(run: Run, sqlite_url: str) -> None:
    migrate.upgrade(sqlite_url)
    done = threading.Event()
    with closing(open_store(sqlite_url)) as store:
        actor = Actor(store, lease_ms=30_000, boot_id="elsewhere")

        def beat() -> None:
            while not done.wait(0.05):
                store.renew(actor.fence, PULSE)

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            answer = read(run(sqlite_url, "sweep", "--json", env={"CRISPER_SWEEP_INTERVAL": "0.1"}))
        finally:
            done.set()
            thread.join()
    assert (answer["alive"], answer["declared"]) == (1, [])
