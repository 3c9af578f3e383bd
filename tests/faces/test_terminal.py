"""What a person at a terminal of 80 columns reads: nothing that matters is cut, and hints can be copied."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crisper.faces.cli.place import Place
from tests.faces.conftest import Run
from tests.faces.scene import HOSTILE, Scene


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_however_long_pushes_out_the_id_or_the_state(run: Run, scene: Scene, name: str) -> None:
    scene.one.runs(*scene._new("hostile"), name=name, queue=name[:1000])
    listed = run(scene.url, "tasks", "--state", "running", "--state", "quarantined").stdout.splitlines()
    for line, task in ((listed[1], "hostile"), (listed[-1], "quarantined")):
        assert line.startswith(scene.ids[task][:8])
    assert "running" in listed[1]
    assert "quarantined" in listed[-1]


def test_the_end_of_a_long_name_is_what_is_shown(run: Run, scene: Scene) -> None:
    scene.one.runs(*scene._new("long"), name="a.very.long.package." * 5 + "charge")
    assert "charge  " in run(scene.url, "tasks", "--limit", "1").stdout


def test_errors_of_ours_are_shown_and_none_goes_without_saying(run: Run, scene: Scene) -> None:
    for command in ("status", "workers"):
        assert "Crisper's own code" not in run(scene.url, command).stdout
    with scene.store.db.write():
        scene.store.db.run("UPDATE crisper_incarnation SET pulse = ?", '{"errors": 3}')
    assert "3 errors in Crisper's own code" in run(scene.url, "status").stdout
    assert "celery@one has counted 3 errors in Crisper's own code" in run(scene.url, "workers").stdout


def test_hints_repeat_what_was_typed_so_that_they_can_be_copied(run: Run, scene: Scene) -> None:
    held = scene.ids["held"]
    assert f"\n  crisper --registry URL recover {held}\n" in run(scene.url, "show", held).stdout
    assert Place("proj", None, None, False).typed == "crisper -A proj"
    assert Place(None, None, None, False).typed == "crisper"


def test_nobody_is_told_to_migrate_a_registry_that_nobody_named(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("CRISPER_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-m", "crisper", "status"],
        env=environment | {"HOME": str(tmp_path)}, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "which registry? Name the app with -A proj" in done.stderr


def test_an_interrupt_that_another_error_wraps_is_an_interrupt() -> None:
    """Python raises a RuntimeError from it where it comes in the middle of a class's making."""
    program = (
        "from crisper.faces.cli.group import _is_an_interrupt as asked\n"
        "class Slow:\n"
        "    def __set_name__(self, owner, name): raise KeyboardInterrupt\n"
        "try:\n"
        "    type('Made', (), {'slow': Slow()})\n"
        "except BaseException as exc:\n"
        "    print(asked(exc), asked(ValueError()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True
    )
    assert done.stdout == "True False\n"
