"""`crisper events`: the audit trail, and following it."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import psycopg
import pytest

from crisper.engine.following import SETTLES_SECONDS, Following
from crisper.engine.reading import HANGS_SECONDS
from crisper.engine.survey import Survey
from crisper.faces.cli.events import KINDS
from crisper.store.open import open_store
from tests.faces.conftest import Run, read
from tests.faces.scene import HOSTILE, INJECTIONS, Scene
from tests.faces.test_cli import assert_plain, assert_refused
from tests.faces.test_doors import CRISPER
from tests.faults.proxy import FaultProxy
from tests.fleet import wait_for
from tests.store.acting import Actor

KEYS = ["id", "task_id", "at", "kind", "attempt", "worker", "actor", "data"]


def test_the_newest_events_come_in_order_with_the_documented_shape(run: Run, read_scene: Scene) -> None:
    whole = read(run(read_scene.url, "events", "--limit", "1000", "--json"))
    assert list(whole) == ["events", "more"]
    assert not whole["more"]
    assert all(list(event) == KEYS for event in whole["events"])
    ids = [event["id"] for event in whole["events"]]
    assert ids == sorted(ids)
    cut = run(read_scene.url, "events", "--limit", "3", "--json")
    assert json.loads(cut.stdout) == {"events": whole["events"][-3:], "more": True}
    assert "only the newest 3 are shown" in cut.stderr


def test_every_kind_on_record_is_one_that_is_named(run: Run, read_scene: Scene) -> None:
    whole = read(run(read_scene.url, "events", "--limit", "1000", "--json"))["events"]
    assert {event["kind"] for event in whole} <= set(KINDS)


def test_a_loss_names_its_attempt(run: Run, read_scene: Scene) -> None:
    lost = read(run(read_scene.url, "events", "--kind", "lost", "--json"))["events"]
    assert len(lost) == 8
    assert all(event["attempt"] == 1 for event in lost)


def test_events_are_told_in_the_words_of_the_story(run: Run, read_scene: Scene) -> None:
    task_id = read_scene.ids["quarantined"]
    shown = run(read_scene.url, "events", "--task", task_id[:8])
    assert_plain(shown.stdout)
    told = re.sub(r"\s+", " ", shown.stdout)
    for sentence in ("lost (by sweeper) evidence: worker: celery@two, how: silence",
                     "verdict: quarantine, because the reason of quarantined (by celery@one)"):  # fmt: skip
        assert f"{task_id[:8]} #1 {sentence}" in told
        assert sentence in re.sub(r"\s+", " ", run(read_scene.url, "show", task_id).stdout)


def test_a_worker_s_events_say_which(run: Run, read_scene: Scene) -> None:
    told = run(read_scene.url, "events", "--kind", "worker_gone", "--kind", "worker_lost").stdout
    assert "celery@three said goodbye" in told
    assert "celery@two was declared lost" in told
    assert "verdict" not in told


def test_since_leaves_out_what_is_older(run: Run, scene: Scene) -> None:
    with scene.store.db.write():
        scene.store.db.run("UPDATE crisper_event SET at = at - 7200000 WHERE kind <> 'verdict'")
    kinds = {event["kind"] for event in read(run(scene.url, "events", "--since", "1h", "--json"))["events"]}
    assert kinds == {"verdict"}
    assert len(read(run(scene.url, "events", "--since", "3h", "--json"))["events"]) > len(kinds)


def test_a_kind_that_nobody_writes_names_the_one_that_was_meant(run: Run, read_scene: Scene) -> None:
    result = run(read_scene.url, "events", "--kind", "verdicts")
    assert result.exit_code == 0
    assert "Did you mean 'verdict'?" in result.stderr
    assert "No such event is on record" in result.stdout


@pytest.mark.parametrize("text", [*INJECTIONS, *HOSTILE])
def test_hostile_questions_and_names_are_harmless(run: Run, scene: Scene, text: str) -> None:
    scene.one.runs(text, "m", name=text)
    scene.store.stop(text, by=text, reason=text)
    for arguments in ([], ["--task", text], ["--kind", text]):
        result = run(scene.url, "events", *arguments)
        assert result.exit_code == 0, result.output
        assert_plain(result.stdout)
    assert "ordered to stop" in run(scene.url, "events", "--task", text).stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"), [(["--since", "5"], "'5' is no age"), (["--limit", "0"], "1<=x<=1000")]
)
def test_what_makes_no_sense_is_a_usage_error(
    run: Run, read_scene: Scene, arguments: list[str], sentence: str
) -> None:
    assert_refused(run(read_scene.url, "events", *arguments), 2, sentence)


@pytest.mark.parametrize("option", [[], ["--follow"]])
def test_a_registry_that_was_never_there_is_69(run: Run, option: list[str]) -> None:
    assert_refused(run("postgresql://127.0.0.1:1/x", "events", *option), 69, "cannot be read")


# -- following ---------------------------------------------------------------


def test_what_was_committed_late_is_not_missed(postgres_database: str) -> None:
    """Ids are given out before the commit: an event may appear under those that were seen already."""
    with closing(Scene(postgres_database)) as scene, closing(Survey(scene.url)) as survey:
        following = Following(survey)
        following.begin(0.0, limit=10, since_ms=None)
        with psycopg.connect(scene.url.replace("+psycopg", "")) as late:
            late.execute(
                "INSERT INTO crisper_event (at, kind, actor, data) VALUES (0, 'pruned', 'late', '{}')"
            )
            scene.store.note("pruned", None, None, "early", {})
            [[early]] = following.tick(1.0)
            assert early["actor"] == "early"
        [[event]] = following.tick(2.0)
        assert (event["actor"], event["id"] < early["id"]) == ("late", True)
        assert list(following.tick(3.0)) == []


def test_what_has_settled_is_not_read_again(scene: Scene) -> None:
    with closing(Survey(scene.url)) as survey:
        following = Following(survey)
        assert len(following.begin(0.0, limit=5, since_ms=None)) == 5
        assert list(following.tick(SETTLES_SECONDS - 1)) == []
        assert following._seen
        assert list(following.tick(SETTLES_SECONDS + 1)) == []
        assert not following._seen
        scene.store.note("pruned", None, None, "ann", {})
        [[event]] = following.tick(SETTLES_SECONDS + 2)
        assert event["actor"] == "ann"


def test_a_backlog_comes_in_pages_and_what_is_older_than_since_does_not(scene: Scene) -> None:
    with closing(Survey(scene.url)) as survey:
        following = Following(survey, kinds=["pruned"])
        with scene.store.db.write():
            scene.store.db.each(
                "INSERT INTO crisper_event (at, kind, actor, data) VALUES (?, 'pruned', 'ann', '{}')",
                [(0,)] * 1500,
            )
        assert following.begin(0.0, limit=5, since_ms=1000) == []
        assert list(following.tick(1.0)) == []
        with scene.store.db.write():
            scene.store.db.each(
                "INSERT INTO crisper_event (at, kind, actor, data) VALUES (?, 'pruned', 'ann', '{}')",
                [(0,)] * 1500,
            )
        pages = [[event["id"] for event in page] for page in following.tick(2.0)]
        assert sum(map(len, pages)) == 1500
        assert max(map(len, pages)) <= 1000


Lines = Callable[[], str]


@contextmanager
def follows(url: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], Lines, Lines]]:
    """`crisper events --follow` as a process; what it says on stdout and on stderr, line by line."""
    command = [CRISPER, "--registry", url, "events", "--follow", *arguments]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CRISPER_")}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield process, _lines(process.stdout), _lines(process.stderr)
    finally:
        process.kill()
        process.wait()


def _lines(stream: IO[str] | None) -> Lines:
    said: queue.Queue[str] = queue.Queue()

    def read_all() -> None:
        for line in stream or ():
            said.put(line)

    threading.Thread(target=read_all, daemon=True).start()
    return lambda: said.get(timeout=40)


def test_following_goes_on_until_ctrl_c(scene: Scene) -> None:
    with follows(scene.url, "--limit", "1", "--json") as (process, out, err):
        assert list(json.loads(out())) == KEYS
        scene.store.note("pruned", None, None, "ann", {"tasks": 1})
        event: dict[str, Any] = json.loads(out())
        assert (event["kind"], event["actor"], event["data"]) == ("pruned", "ann", {"tasks": 1})
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert err() == "crisper: interrupted\n"


def test_following_survives_a_registry_that_is_away_and_misses_nothing(postgres_database: str) -> None:
    parts = urlsplit(postgres_database)
    assert parts.hostname
    with (
        closing(Scene(postgres_database)) as scene,
        FaultProxy((parts.hostname, parts.port or 5432)) as proxy,
    ):
        scene.store.stop(scene.ids["claimed"], by="ann@desk", reason="before")
        _survives(scene, proxy, postgres_database)


def _survives(scene: Scene, proxy: FaultProxy, url: str) -> None:
    asked = ("--limit", "1", "--kind", "stop")
    with follows(proxy.address_in(url), *asked) as (process, out, err):
        assert out().strip().endswith("(UTC)")
        assert "ordered to stop, because before" in out()
        proxy.refuse = True
        proxy.reset()
        assert "cannot be read" in (told := err())
        assert "Going on as soon as it answers" in told
        scene.store.stop(scene.ids["running"], by="ann@desk", reason="meanwhile")
        refused = proxy.counts.refused
        wait_for("it has asked in vain again", lambda: proxy.counts.refused > refused + 1)
        proxy.heal()
        assert "answers again" in err()  # and so it was said once that it was away
        assert "ordered to stop, because meanwhile (by ann@desk)" in out()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_ctrl_c_ends_it_while_the_registry_hangs(postgres_database: str) -> None:
    parts = urlsplit(postgres_database)
    assert parts.hostname
    with (
        closing(Scene(postgres_database)),
        FaultProxy((parts.hostname, parts.port or 5432)) as proxy,
        follows(proxy.address_in(postgres_database), "--limit", "1", "--json") as (process, out, err),
    ):
        out()
        proxy.hold()
        held_at = proxy.counts.connections
        wait_for("it asks in vain", lambda: proxy.counts.connections > held_at)
        process.send_signal(signal.SIGINT)
        assert process.wait(HANGS_SECONDS / 2) == 130
        assert err() == "crisper: interrupted\n"


def test_a_sqlite_file_that_comes_back_is_followed_again(scene: Scene, tmp_path: Path) -> None:
    with follows(scene.url, "--limit", "1", "--json") as (process, out, err):
        out()
        scene.close()
        (tmp_path / "registry.db").rename(tmp_path / "away.db")
        assert "Going on as soon as it answers" in err()
        (tmp_path / "away.db").rename(tmp_path / "registry.db")
        assert "answers again" in err()
        with closing(open_store(scene.url)) as store:
            Actor(store, hostname="celery@new")
        assert json.loads(out())["kind"] == "worker_enrolled"
        assert process.poll() is None
