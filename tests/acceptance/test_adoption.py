"""Adopting Crisper, by real workers: through settings alone, beside classes of one's own, and not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fleet import ROOT, Fleet, wait_for

#: Django's style: settings alone, a base task and a task with Request classes of their own.
APP = """
import os
from celery import Celery, Task
from celery.worker.request import Request

folder = os.environ["FLEET_FOLDER"]
queue = folder + "/queue"

def note(line):
    with open(folder + "/called", "a") as file:
        file.write(line + "\\n")

def telling(name):
    def told(method):
        def call(self, *args, **kwargs):
            note(name + " " + method)
            return getattr(super(own, self), method)(*args, **kwargs)
        return call
    methods = "on_accepted", "on_success", "on_failure", "acknowledge"
    own = type(name, (Request,), {method: told(method) for method in methods})
    return own

FromTheBase, FromTheTask = telling("FromTheBase"), telling("FromTheTask")

class Base(Task):
    Request = FromTheBase

class Settings:
    SECRET_KEY = "unrelated"
    CELERY_BROKER_URL = "filesystem://"
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "data_folder_in": queue, "data_folder_out": queue, "control_folder": folder + "/control",
        "polling_interval": 0.1,
    }
    CELERY_RESULT_BACKEND = "file://" + folder + "/results"
    CELERY_IMPORTS = ("crisper.autoload",)
    CELERY_CRISPER_LEASE = 33

app = Celery("own", task_cls=Base)
app.config_from_object(Settings, namespace="CELERY")

@app.task(name="own.by_base")
def by_base(x):
    return x

class Special(Base):
    Request = FromTheTask

@app.task(name="own.by_task", base=Special, acks_late=True)
def by_task(x):
    if x < 0:
        raise ValueError(x)
    return x
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_app.py").write_text(APP)
    fleet = Fleet(folder)
    fleet.module = "own_app"
    fleet.worker("first", "-c", "1", PYTHONPATH=f"{ROOT}:{folder}")
    yield fleet
    fleet.close()


def run(fleet: Fleet, name: str, x: int) -> Any:
    sent = fleet.app.send_task(name, (x,))
    sent.get(timeout=20, propagate=False)
    wait_for("its record", lambda: fleet.attempts(sent.id) and fleet.open_attempts() == 0)
    return sent


def test_settings_alone_put_attempts_on_record(own: Fleet) -> None:
    sent = run(own, "own.by_base", 7)
    assert own.attempts(sent.id) == [(1, "succeeded")]


def test_settings_in_django_s_style_reach_the_recorder(own: Fleet) -> None:
    assert own.rows("SELECT lease_ms FROM crisper_incarnation") == [(33_000,)]


@pytest.mark.parametrize(
    ("task", "x", "owner", "methods"),
    [
        ("own.by_base", 1, "FromTheBase", {"on_accepted", "acknowledge", "on_success"}),
        ("own.by_task", 1, "FromTheTask", {"on_accepted", "acknowledge", "on_success"}),
        ("own.by_task", -1, "FromTheTask", {"on_accepted", "acknowledge", "on_failure"}),
    ],
)
def test_a_request_class_of_its_own_is_still_asked(
    own: Fleet, task: str, x: int, owner: str, methods: set[str]
) -> None:
    called = own.folder / "called"
    called.unlink(missing_ok=True)
    sent = run(own, task, x)
    assert own.attempts(sent.id) == [(1, "failed" if x < 0 else "succeeded")]
    assert {f"{owner} {method}" for method in methods} <= set(called.read_text().splitlines())


def test_a_disabled_crisper_leaves_plain_celery(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, registry=f"sqlite:///{tmp_path}/none.db")
    try:
        sent = fleet.send("late", 7, 0.01)
        worker = fleet.worker("plain", "-c", "1", FLEET_CONF=json.dumps({"crisper_enabled": False}))
        assert sent.get(timeout=20) == 7
        assert worker.recorders() == []
        assert not (tmp_path / "none.db").exists()
    finally:
        fleet.close()
