"""`crisper top`: one screen, and a live one."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest
from rich.cells import cell_len
from rich.console import Console

from crisper.engine.reading import HANGS_SECONDS, Reading
from crisper.engine.top import top
from crisper.faces.cli.screen import screen
from crisper.store import migrate
from tests.faces.conftest import Run
from tests.faces.scene import HOSTILE, Scene
from tests.faces.test_cli import assert_plain, assert_refused
from tests.faces.test_doors import CRISPER, on_a_terminal
from tests.faults.proxy import FaultProxy
from tests.fleet import wait_for
from tests.store.acting import Actor

IN_CONTROL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def seen(url: str) -> dict[str, Any]:
    with closing(Reading(url, application_name="test")) as reading:
        return top(reading)


def drawn(shown: dict[str, Any] | None, *, height: int = 24, trouble: str = "") -> str:
    out = Console(width=80, color_system=None)
    with out.capture() as capture:
        out.print(screen(shown, width=80, height=height, trouble=trouble))
    return capture.get()


# -- what is asked -----------------------------------------------------------


def test_it_shows_who_lives_what_runs_and_what_waits(read_scene: Scene) -> None:
    shown = seen(read_scene.url)
    lost, alive = shown["workers"]
    assert (lost["hostname"], lost["state"]) == ("celery@two", "lost")
    assert (alive["hostname"], alive["state"], alive["running"], alive["slots"]) == (
        "celery@one",
        "alive",
        1,
        8,
    )
    assert alive["lease"] == 3600
    assert 0 <= alive["lease_age"] <= alive["up"] < 3600
    assert shown["open"] == {"claimed": 1, "running": 1}
    [running] = shown["running"]
    assert (running["task_id"], running["name"], running["worker"]) == (
        *(read_scene.ids["running"], "shop.charge", "celery@one"),
    )
    assert (running["progress"]["done"], running["progress"]["total"]) == (3, 7)
    assert running["memory_bytes"] == 412 << 20
    assert shown["tasks"] == {"quarantined": 1, "held": 2, "lost": 8, "recovered": 1}
    assert {one["task_id"] for one in shown["waiting"]} == {
        read_scene.ids[name] for name in ("quarantined", "held", "not kept")
    }


def test_what_runs_stands_there_the_oldest_first(scene: Scene) -> None:
    for id, at in (("second", 2000), ("first", 1000), ("third", 3000)):
        scene.one.runs(id, id)
        with scene.store.db.write():
            scene.store.db.run("UPDATE crisper_attempt SET started_at = ? WHERE task_id = ?", at, id)
    assert [one["task_id"] for one in seen(scene.url)["running"]][:3] == ["first", "second", "third"]


def test_a_worker_that_is_late_is_suspect_and_stands_before_the_others(scene: Scene) -> None:
    late = Actor(scene.store, hostname="celery@zzz", lease_ms=20_000)
    with scene.store.db.write():
        scene.store.db.run("UPDATE crisper_incarnation SET seen_at = seen_at - 11000 WHERE id = ?", late.id)
    workers = seen(scene.url)["workers"]
    assert [(one["hostname"], one["state"]) for one in workers[:2]] == [
        ("celery@two", "lost"), ("celery@zzz", "suspect"),
    ]  # fmt: skip
    assert 11 <= workers[1]["lease_age"] < 20


def test_losses_of_more_than_an_hour_ago_are_no_news(scene: Scene) -> None:
    with scene.store.db.write():
        scene.store.db.run("UPDATE crisper_incarnation SET ended_at = ended_at - 3600001")
        scene.store.db.run("UPDATE crisper_recovery SET created_at = created_at - 3600001")
    shown = seen(scene.url)
    assert [one["hostname"] for one in shown["workers"]] == ["celery@one"]
    assert shown["tasks"] == {"quarantined": 1, "held": 2, "lost": 0, "recovered": 1}


# -- one screen --------------------------------------------------------------


@pytest.mark.parametrize("option", [["--once"], []])
def test_without_a_terminal_it_is_one_plain_screen(run: Run, read_scene: Scene, option: list[str]) -> None:
    result = run(read_scene.url, "top", *option)
    assert result.exit_code == 0, result.output
    assert_plain(result.stdout)
    told = re.sub(r"\s+", " ", result.stdout)
    for sentence in ("1 running in 8 slots, 1 claimed; last hour: 8 lost, 1 recovered",
                     "celery@one alive", "1 of 8", "celery@two lost",
                     f"{read_scene.ids['running'][:8]} shop.charge celery@one 3 of 7 412 MiB 1",
                     f"{read_scene.ids['quarantined'][:8]} shop.quarantined quarantined"):  # fmt: skip
        assert sentence in told


def test_nothing_is_a_screen_too(run: Run, sqlite_url: str) -> None:
    migrate.upgrade(sqlite_url)
    told = run(sqlite_url, "top", "--once").stdout
    for sentence in ("No worker is alive.", "Nothing runs.", "Nothing waits for you."):
        assert sentence in told


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_shown_as_text(run: Run, scene: Scene, name: str) -> None:
    hostile = Actor(scene.store, hostname=name[:1000])
    hostile.runs(name, "m", name=name)
    result = run(scene.url, "top", "--once")
    assert result.exit_code == 0, result.output
    assert_plain(result.stdout)


def test_it_fits_however_much_there_is_and_says_how_much_more(scene: Scene) -> None:
    for number in range(30):
        Actor(scene.store, hostname=f"celery@{number}").runs(f"task-{number}", f"m-{number}")
    shown = seen(scene.url)
    for height in (14, 24, 50):
        lines = drawn(shown, height=height).splitlines()
        assert len(lines) <= height
        assert all(cell_len(line) <= 80 for line in lines)
        for title in ("worker ", "waits for you", "running "):
            assert any(line.startswith(title) for line in lines), (height, title)
    whole = drawn(shown, height=200)
    assert "more" not in whole
    assert whole.count("task-") == 30
    more = re.findall(r"and (\d+) more", drawn(shown, height=24))
    assert len(more) == 2
    assert all(20 <= int(count) < 32 for count in more)


def test_trouble_is_one_line_above_what_was_known(read_scene: Scene) -> None:
    lines = drawn(seen(read_scene.url), trouble="as it was 5s ago: " + "no answer " * 20).splitlines()
    assert lines[0].startswith("as it was 5s ago: no answer")
    assert lines[0].endswith("…")
    assert len(lines[0]) == 80
    assert any("celery@one" in line for line in lines)
    assert drawn(None, trouble="asking the registry") == "asking the registry\n"


@pytest.mark.parametrize(
    ("url", "code", "sentence"),
    [
        ("postgresql://ann:hunter2@127.0.0.1:1/db", 69, "cannot be read"),
        ("nonsense", 2, "registry_url"),
        ("sqlite:////nowhere/registry.db", 1, "crisper migrate"),
    ],
)
def test_one_screen_of_no_registry_is_an_error(run: Run, url: str, code: int, sentence: str) -> None:
    assert_refused(run(url, "top", "--once"), code, sentence)


@pytest.mark.parametrize("interval", ["0", "0.1", "4000", "often"])
def test_an_interval_that_makes_no_sense_is_a_usage_error(run: Run, read_scene: Scene, interval: str) -> None:
    assert_refused(run(read_scene.url, "top", "--interval", interval), 2, "--interval")


# -- a live one --------------------------------------------------------------


def live(url: str, type_in: Callable[[str], bytes | None], **environment: str) -> tuple[int, str]:
    """On a terminal that can interrupt it."""
    command = [sys.executable, "-c", IN_CONTROL, CRISPER, "top", "--interval", "0.2"]
    return on_a_terminal(command, {"CRISPER_REGISTRY_URL": url} | environment, type_in)


@pytest.mark.parametrize(("typed", "code"), [(b"q", 0), (b"Q", 0), (b"xq", 0), (b"\x03", 130)])
def test_q_or_ctrl_c_ends_it_and_gives_the_terminal_back(
    sqlite_scene: Scene, typed: bytes, code: int
) -> None:
    left_to_type = [typed]

    def type_in(seen: str) -> bytes | None:
        return left_to_type.pop() if "shop.charge" in seen and left_to_type else None

    ended, shown = live(sqlite_scene.url, type_in)
    assert ended == code, shown
    entered, left = shown.index("\x1b[?1049h"), shown.index("\x1b[?1049l")
    assert entered < shown.index("celery@one") < left
    assert ("interrupted" in shown[left:]) is (code == 130)
    assert "Traceback" not in shown


def test_another_key_changes_nothing(sqlite_scene: Scene) -> None:
    typed: list[float] = []

    def type_in(seen: str) -> bytes | None:
        if "shop.charge" not in seen:
            return None
        typed.append(time.monotonic())
        return b"q" if typed[-1] - typed[0] > 1.0 else b"x"

    assert live(sqlite_scene.url, type_in)[0] == 0
    assert len(typed) > 2


def test_it_shows_what_changes(scene: Scene) -> None:
    began: list[str] = []

    def type_in(seen: str) -> bytes | None:
        if "shop.charge" in seen and not began:
            began.append("now")
            scene.one.runs("later", "m-later", name="shop.later")
        return b"q" if "shop.later" in seen else None

    assert live(scene.url, type_in)[0] == 0


def test_a_terminal_that_wants_no_colours_gets_none(sqlite_scene: Scene) -> None:
    def type_in(seen: str) -> bytes | None:
        return b"q" if "celery@one" in seen else None

    assert re.search(r"\x1b\[[0-9;]*m", live(sqlite_scene.url, type_in)[1])
    code, shown = live(sqlite_scene.url, type_in, NO_COLOR="1")
    assert code == 0
    assert not re.search(r"\x1b\[[0-9;]*m", shown)


def test_a_dumb_terminal_gets_one_screen(sqlite_scene: Scene) -> None:
    code, shown = live(sqlite_scene.url, lambda seen: None, TERM="dumb")
    assert code == 0
    assert "celery@one" in shown
    assert "\x1b" not in shown


def test_a_registry_that_is_away_is_told_of_and_awaited(postgres_database: str) -> None:
    parts = urlsplit(postgres_database)
    assert parts.hostname
    stages: list[int] = []
    with (
        closing(Scene(postgres_database)) as scene,
        FaultProxy((parts.hostname, parts.port or 5432)) as proxy,
    ):

        def type_in(seen: str) -> bytes | None:
            if not stages and "shop.charge" in seen:
                stages.append(len(seen))
                proxy.refuse = True
                proxy.reset()
            elif len(stages) == 1 and re.search("as it was .*ago: the registry at", seen):
                stages.append(len(seen))
                scene.one.runs("later", "m-later", name="shop.later")
                proxy.heal()
            return b"q" if len(stages) == 2 and "shop.later" in seen[stages[1] :] else None

        code, shown = live(proxy.address_in(postgres_database), type_in)
    assert code == 0, shown
    assert len(stages) == 2


def test_q_ends_it_while_the_registry_hangs(postgres_database: str) -> None:
    parts = urlsplit(postgres_database)
    assert parts.hostname
    typed: list[float] = []
    with (
        closing(Scene(postgres_database)),
        FaultProxy((parts.hostname, parts.port or 5432)) as proxy,
    ):

        def type_in(seen: str) -> bytes | None:
            if "shop.charge" in seen and not proxy.down.hold:
                proxy.hold()
                held_at = proxy.counts.connections
                wait_for("it asks in vain", lambda: proxy.counts.connections > held_at)
                typed.append(time.monotonic())
                return b"q"
            return None

        code, shown = live(proxy.address_in(postgres_database), type_in)
    assert code == 0, shown
    assert time.monotonic() - typed[0] < HANGS_SECONDS / 2


def test_a_registry_that_is_not_there_yet_is_awaited_and_one_without_a_schema_is_not(
    sqlite_url: str,
) -> None:
    def type_in(seen: str) -> bytes | None:
        return b"q" if "cannot be read" in seen else None

    assert live("postgresql://127.0.0.1:1/db", type_in)[0] == 0
    code, shown = live(sqlite_url, lambda seen: None)
    assert code == 1
    assert "crisper migrate" in shown[shown.index("\x1b[?1049l") :]
