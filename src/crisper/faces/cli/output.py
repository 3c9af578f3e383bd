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
    from rich.table import Table

    from crisper.faces.cli.place import Place

WIDTH = 80

json_option = click.option("--json", "as_json", is_flag=True, help="Only JSON on stdout, in a stable shape.")

COLOURS = {
    **dict.fromkeys(("alive", "succeeded", "running", "settled"), "green"),
    **dict.fromkeys(("suspect", "recovering", "held", "retried", "claimed"), "yellow"),
    **dict.fromkeys(("wedged", "silent", "stalled"), "yellow"),
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


#: Between two columns.
_GAP = 2


def table(console: Console, columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    console.print(grid(console.width, columns, rows))


def grid(room: int, columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> Table:
    """One line per row; only flexible columns are cut to fit. States in colour."""
    from rich.table import Table
    from rich.text import Text

    cells = [[_plain(value) for value in row] for row in rows]
    widths = _widths(columns, cells, room)
    shown = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for column, width in zip(columns, widths, strict=True):
        shown.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=not column.whole,
            overflow="fold" if column.whole else "ellipsis",
            width=width,
        )
    for row in cells:
        shown.add_row(*(Text(*_fitted(*cell)) for cell in zip(columns, row, widths, strict=True)))
    return shown


def _plain(value: object) -> str:
    return "-" if value is None or value == "" else str(value)


def _fitted(column: Column, text: str, width: int) -> tuple[str, str]:
    """The value as it is shown, and its colour. Of some columns the end tells more than the beginning."""
    from_the_end = column.tail and len(text) > width
    shown = f"…{clean(text[1 - width :])}" if from_the_end else clean(text)
    return shown, COLOURS.get(text, "") if column.title == "state" else ""


def _widths(columns: Sequence[Column], cells: Sequence[Sequence[str]], room: int) -> list[int]:
    """What each column needs; flexible ones share what the others leave, none gets more than it needs."""
    from rich.cells import cell_len

    texts = zip(*([column.title for column in columns], *cells), strict=True)
    needs = [max(cell_len(clean(text)) for text in of_column) for of_column in texts]
    widths = [min(need, column.most or room) for need, column in zip(needs, columns, strict=True)]
    sharing = sorted(
        (i for i, column in enumerate(columns) if column.flexible),
        key=lambda i: widths[i] / columns[i].flexible,
    )
    left = room - _GAP * len(columns) - sum(w for i, w in enumerate(widths) if i not in sharing)
    while sharing:
        weight = sum(columns[i].flexible for i in sharing)
        first = sharing.pop(0)
        widths[first] = max(4, min(widths[first], left * columns[first].flexible // weight))
        left -= widths[first]
    return widths


def lines(console: Console, *texts: str, style: str = "") -> None:
    """Sentences, wrapped; what comes from outside is cleaned by the caller."""
    from rich.text import Text

    for text in texts:
        console.print(Text(text, style=style, overflow="fold"))


def hanging(console: Console, head: str, text: str, *, style: str = "") -> None:
    """One paragraph beside its head, with nothing but the text in its lines' ends."""
    from rich.cells import cell_len
    from rich.text import Text

    room = max(console.width - cell_len(head), 20)
    for line in Text(text, style=style, overflow="fold").wrap(console, room):
        console.print(Text(head).append_text(line), soft_wrap=True)
        head = " " * cell_len(head)
