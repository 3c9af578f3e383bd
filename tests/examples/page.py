"""The code blocks of a page, run in their order as its reader would, and compared with what it shows."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.fleet import children_of, wait_for

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UNTIL_ENDED = re.compile(r"^celery -A \w+ worker|^crisper -A \w+ serve")
_SAID_AS_IT_IS = re.compile(r"#?[12]")  # the number of an attempt
SECONDS = 30.0


class Command(NamedTuple):
    line: str
    shown: list[str]  # the lines that the page shows below it


def blocks(page: Path, kind: str) -> list[str]:
    return [text for name, text in _BLOCK.findall(page.read_text()) if name == kind]


def commands(page: Path) -> Iterator[Command]:
    """Those of its `console` blocks."""
    for block in blocks(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, *shown = part.splitlines()
            yield Command(line, shown)


def pattern(shown: list[str]) -> re.Pattern[str]:
    """What the output must be like: words as they are, names, numbers and times alike.

    `…` is anything: lines, or the end of one.
    """
    return re.compile("".join(_line(line) for line in shown), re.MULTILINE)


def _line(line: str) -> str:
    if line == "…":
        return r"(?:.*\n)*?"
    line, *rest = line.split(" …")  # at its end: whatever else it says
    return r"\s*" + r"\s+".join(map(_word, line.split())) + (r"[^\n]*\n?" if rest else r"[ \t]*\n?")


def _word(word: str) -> str:
    varies = re.search(r"\d|@|…", word) and not _SAID_AS_IT_IS.fullmatch(word)
    return r"\S+" if varies else re.escape(word)


class Reader:
    """Somebody who follows a page, word for word, in a folder of their own."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.ids: dict[str, str] = {}  # the task ids that the page shows, and those that there are
        self._left_running: list[subprocess.Popen[bytes]] = []

    def follow(self, command: Command) -> str:
        """Do what the page says, and wait until it shows what the page shows; its output so far."""
        return self._start(command) if _UNTIL_ENDED.match(command.line) else self._run(command)

    def _start(self, command: Command) -> str:
        self._reap()
        log = self.folder / f"{len(self._left_running)}.log"
        with log.open("wb") as file:
            started = subprocess.Popen(
                ["bash", "-c", f"exec {command.line}"],
                cwd=self.folder, env=self.environment, stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        self._left_running.append(started)
        return self._shows(command, lambda: log.read_text(errors="replace"))

    def _run(self, command: Command) -> str:
        """Again until it shows that: people type more slowly than this does."""
        return self._shows(command, lambda: self._output(self._with_ids(command.line)))

    def _shows(self, command: Command, output: Callable[[], str]) -> str:
        said, wanted = "", pattern(command.shown)

        def is_shown() -> bool:
            nonlocal said
            said = output()
            return wanted.search(said) is not None

        try:
            wait_for(command.line, is_shown, SECONDS)
        except AssertionError as late:
            raise AssertionError(f"{late}\nshown:\n{chr(10).join(command.shown)}\nsaid:\n{said}") from None
        self._learn(command.shown, said)
        return said

    def _output(self, line: str) -> str:
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self.environment, text=True, timeout=SECONDS,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}: {done.stdout}"
        return done.stdout

    def _with_ids(self, line: str) -> str:
        for shown, actual in self.ids.items():
            line = line.replace(shown[:8], actual[:8])
        return line

    def _learn(self, shown: list[str], said: str) -> None:
        found = (_UUID.search("\n".join(shown)), _UUID.search(said))
        if found[0] and found[1]:
            self.ids[found[0][0]] = found[1][0]

    def _reap(self) -> None:
        """As a shell does: until then a killed process has its pid still."""
        for started in self._left_running:
            started.poll()

    def close(self) -> None:
        for started in self._left_running:
            for pid in [*children_of(started.pid), started.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            started.wait(10)
