"""The reference pages say what the code does, all of it and nothing else."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import click

from crisper.faces.cli import cli
from crisper.faces.cli.events import KINDS
from crisper.faces.cli.group import COMMANDS
from crisper.settings import Settings

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"


def row_of(field: dataclasses.Field[object]) -> str:
    """A setting's line in docs/reference/settings.md."""
    meta = field.metadata
    of_the_platform = {
        "registry_url": "a SQLite file in the platform's state folder",
        "journal_dir": "a folder in the platform's state folder",
        "probe_dir": "a folder in the platform's runtime folder",
    }
    if field.name in of_the_platform:
        default = of_the_platform[field.name]
    else:
        plain = not isinstance(field.default, tuple) or not field.default
        default = f"`{field.default!r}`" if plain else ", ".join(field.default)
    words = f"{meta['meaning']}; one of {', '.join(meta['one_of'])}" if meta["one_of"] else meta["meaning"]
    return f"| `crisper_{field.name}` | {default} | {meta['unit'] or '-'} | {words} |"


def test_every_setting_stands_in_the_reference_as_it_is() -> None:
    rows = [row_of(field) for field in dataclasses.fields(Settings)]
    shown = (REFERENCE / "settings.md").read_text().splitlines()
    assert [line for line in shown if line.startswith("| `crisper_")] == rows, "\n".join(rows)


def section_of(command: str) -> str:
    """What the page says below the heading that names the command; nothing if there is none."""
    for section in (REFERENCE / "cli.md").read_text().split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        if command in re.split(r", | and ", heading):
            return text
    return ""


def test_every_command_and_option_stands_in_the_reference() -> None:
    page = (REFERENCE / "cli.md").read_text()
    context = click.Context(cli)
    for name in cli.list_commands(context):
        assert f"`crisper {name}" in page
        command = cli.get_command(context, name)
        assert command is not None
        options = {word for param in command.params for word in param.opts if word.startswith("--")}
        missing = {option for option in options - {"--json"} if f"`{option}" not in section_of(name)}
        assert not missing, (name, missing)


def test_every_kind_of_event_stands_in_the_reference() -> None:
    [row] = [line for line in section_of("events").splitlines() if line.startswith("| `--kind")]
    assert tuple(re.findall(r"`([a-z_]+)`", row)) == KINDS


def test_the_reference_names_no_command_that_does_not_exist() -> None:
    page = (REFERENCE / "cli.md").read_text()
    assert set(re.findall(r"^\| `crisper ([\w-]+)", page, re.MULTILINE)) == set(COMMANDS)


def test_every_example_is_json() -> None:
    page = (REFERENCE / "json.md").read_text()
    examples = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 13
    for example in examples:
        json.loads(example)
