"""Both doors, as processes: what users type, and what their terminals get."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from kombu import Connection

from crisper.core.message import Kept, pack
from crisper.core.states import VerdictKind
from crisper.store import migrate
from crisper.store.open import open_store
from tests.faces.scene import Scene
from tests.fleet import wait_for
from tests.store.acting import Actor

BIN = Path(sys.executable).parent
CRISPER, CELERY = str(BIN / "crisper"), str(BIN / "celery")
HEAVY = ("celery", "kombu", "sqlalchemy", "alembic", "psycopg", "rich")

APP = """
import os
import celery
print("an app that prints while it is imported")
app = celery.Celery("proj", broker=os.environ.get("PROJ_BROKER", "memory://"))
app.conf.crisper_registry_url = os.environ["PROJ_REGISTRY"]
folder = os.environ.get("PROJ_QUEUE", "")
if folder:
    kinds = ("data_folder_in", "data_folder_out", "control_folder")
    app.conf.broker_transport_options = dict.fromkeys(kinds, folder)

@app.task(name="proj.add", acks_late=True)
def add(x, y):
    return x + y
"""


def crisper(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("CRISPER_", "NO_COLOR"))}
    return subprocess.run(
        command, cwd=cwd, env=clean | environment, capture_output=True, text=True, timeout=50, check=False
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "proj.py").write_text(APP)
    (tmp_path / "queue").mkdir()
    return tmp_path


# -- the doors ---------------------------------------------------------------


@pytest.mark.parametrize("door", [[CRISPER, "-A", "proj"], [CELERY, "-A", "proj", "crisper"]])
def test_both_doors_take_the_app_s_registry(project: Path, sqlite_scene: Scene, door: list[str]) -> None:
    result = crisper(*door, "status", "--json", cwd=project, PROJ_REGISTRY=sqlite_scene.url)
    assert result.returncode == 0, result.stderr
    printed = "an app that prints while it is imported\n"
    assert json.loads(result.stdout.removeprefix(printed))["attempts"] == {"claimed": 1, "running": 1}
    if door[0] == CRISPER:  # through the other door Celery itself has imported the app
        assert printed not in result.stdout


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_status_does_not_wait_for_a_broker_that_says_nothing(
    project: Path, sqlite_scene: Scene, scheme: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        places = {"PROJ_REGISTRY": sqlite_scene.url}
        places["PROJ_BROKER"] = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}//".removesuffix("/")
        result = crisper(CRISPER, "-A", "proj", "status", "--json", cwd=project, **places)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["workers"]["blind"] is None


@pytest.mark.parametrize("door", [[CRISPER], [CELERY, "crisper"]])
def test_both_doors_read_without_an_app(tmp_path: Path, sqlite_scene: Scene, door: list[str]) -> None:
    result = crisper(*door, "status", "--json", cwd=tmp_path, CRISPER_REGISTRY_URL=sqlite_scene.url)
    assert result.returncode == 0, result.stderr
    assert list(json.loads(result.stdout)) == [
        "registry",
        "workers",
        "messages",
        "attempts",
        "tasks",
        "sweeper",
    ]


@pytest.mark.parametrize("door", [[CRISPER, "-A", "proj"], [CELERY, "-A", "proj", "crisper"]])
@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["show", "nobody"], 1, "no task nobody is on record"),
        (["tasks", "--cursor", "!"], 2, "no cursor of ours"),
        (["status", "-A", "proj"], 2, "-A goes before the command"),
        (["recover", "x", "y"], 75, "Say --yes"),
        (["--registry", "postgresql://127.0.0.1:1/x", "status"], 69, "cannot be read"),
    ],
)
def test_errors_leave_both_doors_alike(
    project: Path, sqlite_scene: Scene, door: list[str], arguments: list[str], code: int, sentence: str
) -> None:
    result = crisper(*door, *arguments, cwd=project, PROJ_REGISTRY=sqlite_scene.url)
    assert result.returncode == code
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("app", "sentence"),
    [
        ("nowhere", "no module 'nowhere'"),
        ("broken", "cannot load the app 'broken': ZeroDivisionError"),
        ("leaves", "cannot load the app 'leaves': SystemExit"),
        ("proj:add.name", "cannot load the app|is a str, not a Celery app"),
    ],
)
def test_an_app_that_does_not_load_is_a_sentence(project: Path, app: str, sentence: str) -> None:
    (project / "broken.py").write_text("1 / 0")
    (project / "leaves.py").write_text("raise SystemExit(3)")
    result = crisper(CRISPER, "-A", app, "status", cwd=project, PROJ_REGISTRY="sqlite:////nowhere/x.db")
    assert result.returncode == 2
    assert re.search(sentence, result.stderr), result.stderr
    assert "Traceback" not in result.stderr


def test_help_answers_without_what_only_commands_need() -> None:
    for arguments in (["--help"], ["tasks", "--help"], ["--version"]):
        program = (
            f"import sys; sys.argv = ['crisper', *{arguments!r}]\n"
            "from crisper.__main__ import main\n"
            "main()\n"
            f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
        )
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert result.stderr == "[]\n"


# -- terminals ---------------------------------------------------------------


def test_a_pipe_gets_no_colours(tmp_path: Path, sqlite_scene: Scene) -> None:
    for command in (["status"], ["workers"], ["tasks"], ["show", sqlite_scene.ids["held"]]):
        result = crisper(CRISPER, *command, cwd=tmp_path, CRISPER_REGISTRY_URL=sqlite_scene.url, TERM="xterm")
        assert result.returncode == 0
        assert "\x1b" not in result.stdout + result.stderr


def on_a_terminal(
    command: list[str],
    environment: dict[str, str],
    type_in: Callable[[str], bytes | None] = lambda seen: None,
) -> tuple[int, str]:
    """Run it on a pseudo-terminal of 80 columns; `type_in` sees what is shown and may type."""
    ours, theirs = pty.openpty()
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("CRISPER_", "NO_COLOR"))}
    clean |= {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"} | environment
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=clean, start_new_session=True
    )
    os.close(theirs)
    seen = b""
    give_up = time.monotonic() + 40
    try:
        while time.monotonic() < give_up:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    chunk = os.read(ours, 65536)
                except OSError:  # the other end is closed
                    break
                if not chunk:
                    break
                seen += chunk
            typed = type_in(seen.decode(errors="replace"))
            if typed:
                os.write(ours, typed)
        return process.wait(10), seen.decode(errors="replace")
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_a_terminal_gets_colours_unless_it_wants_none(sqlite_scene: Scene) -> None:
    environment = {"CRISPER_REGISTRY_URL": sqlite_scene.url}
    code, shown = on_a_terminal([CRISPER, "tasks"], environment)
    assert code == 0
    assert "\x1b[31m" in shown  # lost ones in red
    for plain in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b" not in on_a_terminal([CRISPER, "tasks"], environment | plain)[1]
    assert "\x1b" not in on_a_terminal([CRISPER, "-C", "tasks"], environment)[1]


@pytest.mark.parametrize(("answer", "code", "state"), [(b"y\n", 0, "discarded"), (b"n\n", 75, "held")])
def test_a_terminal_is_asked_before_several_tasks_are_decided(
    scene: Scene, answer: bytes, code: int, state: str
) -> None:
    asked: list[str] = []

    def type_in(seen: str) -> bytes | None:
        if "[y/N]" in seen and not asked:
            asked.append(seen)
            return answer
        return None

    ids = scene.ids["held"], scene.ids["not kept"]
    environment = {"CRISPER_REGISTRY_URL": scene.url}
    ended, shown = on_a_terminal([CRISPER, "discard", *ids], environment, type_in)
    assert asked, shown
    assert "Discard 2 tasks?" in shown
    assert ended == code, shown
    found = crisper(CRISPER, "show", ids[0], "--json", cwd=Path("/"), **environment)
    assert json.loads(found.stdout)["state"] == state


def test_a_reader_that_leaves_early_gets_no_traceback(tmp_path: Path, sqlite_scene: Scene) -> None:
    line = f"{CRISPER} --registry {sqlite_scene.url} tasks --json | head -1"
    result = crisper("bash", "-c", line, cwd=tmp_path)
    assert result.stdout == "{\n"
    assert result.stderr == ""


def test_an_ascii_terminal_is_no_reason_to_fail(tmp_path: Path, scene: Scene) -> None:
    scene.one.claims("t", "m", name="Grüße 日本")
    result = crisper(CRISPER, "tasks", cwd=tmp_path, CRISPER_REGISTRY_URL=scene.url, PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr
    assert "Gr??e" in result.stdout


def test_ctrl_c_during_a_sweep_is_130_and_declares_nobody(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/registry.db"
    migrate.upgrade(url)
    with closing(open_store(url)) as store:
        Actor(store, lease_ms=60_000, boot_id="elsewhere")
        process = subprocess.Popen(
            [CRISPER, "--registry", url, "sweep"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        wait_for("the sweep reads the registry", lambda: _has_open(process.pid, tmp_path / "registry.db"))
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
        assert process.returncode == 130
        assert told.strip() == "crisper: interrupted"
        assert len(store.alive()) == 1


def _has_open(pid: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):  # a descriptor that was closed meanwhile
        return any(link.readlink() == path for link in Path(f"/proc/{pid}/fd").iterdir())
    return False


# -- with an app -------------------------------------------------------------


def a_held_task(project: Path, broker: str) -> tuple[str, dict[str, str]]:
    """A held task of the app in `project`, whose message is kept exactly."""
    environment = {
        "PROJ_REGISTRY": f"sqlite:///{project}/registry.db",
        "PROJ_BROKER": broker,
        "PROJ_QUEUE": str(project / "queue") if broker.startswith("filesystem") else "",
    }
    migrate.upgrade(environment["PROJ_REGISTRY"])
    scope = crisper(
        sys.executable, "-c",
        "import proj; from crisper.celery.node import scope_of; print(scope_of(proj.app))",
        cwd=project, **environment,
    ).stdout.split()[-1]  # fmt: skip
    kept = Kept(
        b'[[2, 3], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]',
        "application/json",
        "utf-8",
        {"id": "t-held", "task": "proj.add", "lang": "py"},
        {"correlation_id": "t-held", "delivery_mode": 2, "priority": 0},
        "",
        "celery",
    )
    with closing(open_store(environment["PROJ_REGISTRY"])) as store:
        actor = Actor(store, scope=scope)
        actor.runs("t-held", "m", name="proj.add", message=pack(kept, limit=10**6))
        actor.is_lost()
        [case] = store.take_cases("courier", scope, limit=10)
        assert store.decide(case.recovery, VerdictKind.HOLD, "by policy", {}, by="courier")
    return "t-held", environment


def test_recover_with_an_app_sends_the_message_at_once(project: Path) -> None:
    task_id, environment = a_held_task(project, "filesystem://")
    result = crisper(CRISPER, "-A", "proj", "recover", task_id, "--json", cwd=project, **environment)
    assert result.returncode == 0, result.stderr
    [told] = json.loads(result.stdout)["tasks"]
    assert told == {"task_id": task_id, "outcome": "done", "reason": "sent again", "attempt": 1}
    folder = {"data_folder_in": f"{project}/queue", "data_folder_out": f"{project}/queue"}
    with Connection(
        "filesystem://", transport_options=folder | {"control_folder": f"{project}/queue"}
    ) as connection:
        message = connection.SimpleQueue("celery").get(timeout=5)
    assert message.headers["id"] == task_id
    assert message.payload[0] == [2, 3]
    story = crisper(CRISPER, "-A", "proj", "show", task_id, "--json", cwd=project, **environment)
    [recovery] = json.loads(story.stdout)["recoveries"]
    assert (recovery["action"], recovery["state"]) == ("recover", "done")
    assert recovery["sent_at"]


def test_recover_with_a_broker_that_is_down_is_69_and_stays_decided(project: Path) -> None:
    task_id, environment = a_held_task(project, "redis://:hunter2@127.0.0.1:1/0")
    result = crisper(CRISPER, "-A", "proj", "recover", task_id, cwd=project, **environment)
    assert result.returncode == 69, result.stderr
    assert "could not be sent now" in result.stderr
    assert "hunter2" not in result.stderr
    story = crisper(CRISPER, "-A", "proj", "show", task_id, "--json", cwd=project, **environment)
    assert json.loads(story.stdout)["state"] == "recovering"


def test_recover_with_another_app_leaves_it_to_its_own(project: Path) -> None:
    task_id, environment = a_held_task(project, "filesystem://")
    environment["PROJ_BROKER"] = "memory://"
    result = crisper(CRISPER, "-A", "proj", "recover", task_id, cwd=project, **environment)
    assert result.returncode == 0, result.stderr
    assert "belongs to another app or broker" in re.sub(r"\s+", " ", result.stdout)
