"""`crisper completion`: the scripts, and what they are answered."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faces.conftest import Run
from tests.faces.test_cli import assert_refused
from tests.faces.test_doors import BIN, CELERY, CRISPER, HEAVY, crisper


def completed(shell: str, *words: str) -> tuple[list[str], str]:
    """What is offered for the last word, and which heavy modules that took."""
    program = (
        "import sys\n"
        "from crisper.__main__ import main\n"
        "main()\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    asked = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | asked | {"_CRISPER_COMPLETE": f"{shell}_complete"},
        capture_output=True, text=True, timeout=50, check=True,
    )  # fmt: skip
    offered = [line.partition(",")[2] for line in done.stdout.splitlines() if line]
    return offered, done.stderr.strip()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["crisper", "st"], ["status", "stop"]),
        (["crisper", "tasks", "--lim"], ["--limit"]),
        (["crisper", "tasks", "--state", "re"], ["recovering", "rejected", "released", "retried", "revoked"]),
        (["crisper", "recover", "--all", "--state", "q"], ["quarantined"]),
        (["crisper", "events", "--kind", "v"], ["vanished", "verdict"]),
        (["crisper", "completion", "b"], ["bash"]),
        (["crisper", "show", "0d"], []),
    ],
)
def test_what_is_cheap_is_completed(words: list[str], offered: list[str]) -> None:
    assert completed("bash", *words) == (offered, "[]")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(run: Run, sqlite_url: str, shell: str) -> None:
    result = run(sqlite_url, "completion", shell)
    assert result.exit_code == 0
    assert f"_CRISPER_COMPLETE={shell}_complete" in result.stdout


def test_through_celery_s_door_it_is_the_same_script(tmp_path: Path) -> None:
    whole = crisper(CRISPER, "completion", "zsh", cwd=tmp_path)
    assert whole.returncode == 0
    assert crisper(CELERY, "crisper", "completion", "zsh", cwd=tmp_path).stdout == whole.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_real_bash_completes_with_it(tmp_path: Path) -> None:
    program = (
        'eval "$(crisper completion bash)"\n'
        "complete -p crisper\n"
        "COMP_WORDS=(crisper st); COMP_CWORD=1; _crisper_completion crisper\n"
        'echo "${COMPREPLY[@]}"'
    )
    path = f"{BIN}:{os.environ['PATH']}"
    done = crisper("bash", "--norc", "-c", program, cwd=tmp_path, PATH=path)
    assert done.returncode == 0, done.stderr
    registered, offered = done.stdout.splitlines()
    assert registered.split()[0 :: len(registered.split()) - 1] == ["complete", "crisper"]
    assert offered == "status stop"


def test_another_shell_is_a_usage_error(run: Run, sqlite_url: str) -> None:
    assert_refused(run(sqlite_url, "completion", "tcsh"), 2, "'tcsh' is not one of 'bash', 'zsh', 'fish'")
