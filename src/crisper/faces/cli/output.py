"""What commands print: JSON for machines, tables and lines for people."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from crisper.faces.cli.text import clean

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from crisper.faces.cli.place import Place

WIDTH = 80

json_option = click.option("--json", "as_json", is_flag=True, help="Only JSON on stdout, in a stable shape.")

COLOURS = {
    **dict.fromkeys(("alive", "succeeded", "running", "settled"), "green"),
    **dict.fromkeys(("suspect", "recovering", "held", "retried", "claimed"), "yellow"),
    **dict.fromkeys(("lost", "quarantined", "failed", "rejected"), "red"),
    **dict.fromkeys(("gone", "discarded", "expired", "revoked", "released"), "dim"),
}


def emit(answer: dict[str, Any]) -> None:
    """JSON in ASCII: nothing in it that a terminal could obey, whatever the tasks are called."""
    click.echo(json.dumps(answer, indent=2))


def console(place: Place) -> Console:
    """Plain and 80 wide unless stdout is a terminal."""
    from rich.console import Console

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal in ASCII is no reason to fail
    terminal = sys.stdout.isatty()
    plain = place.no_color or bool(os.environ.get("NO_COLOR")) or not terminal
    options: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    if plain:
        options["color_system"] = None
    if not terminal:
        options["width"] = WIDTH
    return Console(**options)


class Column(NamedTuple):
    title: str
    most: int | None = None  # characters; longer values end in …
    right: bool = False
    flexible: int = 0  # its share of the room that is left
    tail: bool = False  # the end tells more than the beginning
    whole: bool = False  # folded over lines rather than cut


def table(console: Console, columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """One line per row, cut to fit; states in colour."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        shown.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=not column.whole,
            overflow="fold" if column.whole else "ellipsis",
            ratio=column.flexible or None,
            max_width=column.most,
        )
    for row in rows:
        shown.add_row(*(_cell(column, value) for column, value in zip(columns, row, strict=True)))
    console.print(shown)


def _cell(column: Column, value: object) -> Text:
    from rich.text import Text

    text = "-" if value is None or value == "" else str(value)
    if column.tail and column.most and len(text) > column.most:
        text = "…" + clean(text[1 - column.most :])
    else:
        text = clean(text)
    return Text(text, style=COLOURS.get(text, "") if column.title == "state" else "")


def lines(console: Console, *texts: str, style: str = "") -> None:
    """Sentences, wrapped; what comes from outside is cleaned by the caller."""
    from rich.text import Text

    for text in texts:
        console.print(Text(text, style=style, overflow="fold"))


def hanging(console: Console, head: str, text: str, *, style: str = "") -> None:
    """One paragraph beside its head, with nothing but the text in its lines' ends."""
    from rich.text import Text

    room = max(console.width - len(head), 20)
    for line in Text(text, style=style, overflow="fold").wrap(console, room):
        console.print(Text(head).append_text(line), soft_wrap=True)
        head = " " * len(head)
