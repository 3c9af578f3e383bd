"""The site says nothing that is not there: the tests and the commands that it names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from crisper.faces.cli.group import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
#: Laws that a page names by where they are.
_LAW = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")

#: `crisper -A proj COMMAND`, in a line of code or in the text.
_COMMAND = re.compile(r"(?:`|^\s*(?:\$ )?)crisper (?:(?:-A|--registry) \S+ )*([a-z][a-z-]*)", re.MULTILINE)


def laws() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        yield from _LAW.findall(page.read_text())


def test_every_law_that_a_page_names_is_there() -> None:
    named = set(laws())
    assert len(named) >= 10
    for file, law in named:
        assert f"def {law}(" in (ROOT / file).read_text(), (file, law)


def test_every_test_file_that_a_page_names_is_there() -> None:
    for page in PAGES:
        for file in re.findall(r"`(tests/[\w/]+\.py)[`:]", page.read_text()):
            assert (ROOT / file).is_file(), (page.name, file)


def test_every_command_that_a_page_names_is_there() -> None:
    named = {(page.name, word) for page in PAGES for word in _COMMAND.findall(page.read_text())}
    assert len(named) >= 50
    assert {(page, word) for page, word in named if word not in COMMANDS} == set()
