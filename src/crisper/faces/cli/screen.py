"""One screen of `crisper top`, from what `engine.top` answers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.text import Text

from crisper.core.progress import so_far
from crisper.core.size import size
from crisper.faces.cli.output import Column, grid
from crisper.faces.cli.text import clean, plural, short_age, short_ids

_WORKERS = (
    Column("worker", flexible=1),
    Column("state"),
    Column("lease", right=True),
    Column("slots", right=True),
    Column("up", right=True),
)
_RUNNING = (
    Column("running", most=20),
    Column("name", flexible=3, tail=True),
    Column("worker", flexible=2),
    Column("progress", most=20),
    Column("memory", right=True),
    Column("attempt", right=True),
    Column("age", right=True),
)
_WAITING = (
    Column("waits for you", most=20),
    Column("name", flexible=1, tail=True),
    Column("state"),
    Column("age", right=True),
)

#: Lines above the lists; and around the rows of each: a blank one, its head, and how many more there are.
_HEAD, _AROUND = 2, 3


class Part(NamedTuple):
    columns: Sequence[Column]
    rows: Sequence[tuple[object, ...]]
    whole: int  # of all there are
    none: str


def screen(shown: dict[str, Any] | None, *, width: int, height: int, trouble: str = "") -> RenderableType:
    """What fits: of each list its first rows, and how many more there are."""
    said = [] if not trouble else [_line(trouble, width, style="yellow")]
    if shown is None:
        return Group(*said)
    parts = [_workers(shown), _waiting(shown), _running(shown)]
    room = height - _HEAD - len(said) - _AROUND * len(parts)
    rooms = _rooms([len(part.rows) for part in parts], room)
    lists = [_list(part, room, width) for part, room in zip(parts, rooms, strict=True)]
    return Group(*said, *_head(shown, width), *(one for of_part in lists for one in of_part))


def _head(shown: dict[str, Any], width: int) -> list[Text]:
    tasks, open_ones = shown["tasks"], shown["open"]
    slots = sum(worker["slots"] or 0 for worker in shown["workers"] if worker["state"] != "lost")
    now = shown["now"].replace("T", " ")[:19]
    return [
        _line(f"{now} UTC, {clean(shown['registry'])}", width, style="bold"),
        _line(f"{open_ones['running']} running in {plural(slots, 'slot')}, {open_ones['claimed']} claimed;"
              f" last hour: {tasks['lost']} lost, {tasks['recovered']} recovered", width),
    ]  # fmt: skip


def _line(text: str, width: int, *, style: str = "") -> Text:
    line = Text(text, style=style, no_wrap=True)
    line.truncate(width, overflow="ellipsis")
    return line


def _rooms(needs: list[int], room: int) -> list[int]:
    """Rows for each list: what it needs, or a fair share; at least one."""
    rooms = [min(1, need) for need in needs]
    while sum(rooms) < min(room, sum(needs)):
        smallest = min((at for at, need in enumerate(needs) if rooms[at] < need), key=rooms.__getitem__)
        rooms[smallest] += 1
    return rooms


def _list(part: Part, room: int, width: int) -> list[RenderableType]:
    if not part.rows:
        return [Text(), _line(part.none, width, style="dim")]
    more = part.whole - room
    rest = [_line(f"and {more} more", width, style="dim")] if more > 0 else []
    return [Text(), grid(width, part.columns, part.rows[:room]), *rest]


def _workers(shown: dict[str, Any]) -> Part:
    rows = [
        (
            *(worker["hostname"], worker["state"]),
            f"{short_age(worker['lease_age'])} of {worker['lease']:.0f}s",
            f"{worker['running']} of {worker['slots'] or '?'}",
            short_age(worker["up"]),
        )
        for worker in shown["workers"]
    ]
    return Part(_WORKERS, rows, len(rows), "No worker is alive.")


def _running(shown: dict[str, Any]) -> Part:
    short = short_ids(one["task_id"] for one in shown["running"])
    rows = [
        (
            *(short[one["task_id"]], one["name"], one["worker"], _progress(one["progress"])),
            None if one["memory_bytes"] is None else size(one["memory_bytes"]),
            _attempt(one),
            None if one["age"] is None else short_age(one["age"]),
        )
        for one in shown["running"]
    ]
    return Part(_RUNNING, rows, shown["open"]["running"], "Nothing runs.")


def _attempt(one: dict[str, Any]) -> str:
    return f"{one['attempt']}, stalled" if one["stalled"] else str(one["attempt"])


def _progress(told: dict[str, Any] | None) -> str | None:
    return None if told is None else so_far(told["done"], told["total"])


def _waiting(shown: dict[str, Any]) -> Part:
    short = short_ids(one["task_id"] for one in shown["waiting"])
    rows = [
        (short[one["task_id"]], one["name"], one["state"], short_age(one["age"])) for one in shown["waiting"]
    ]
    count = shown["tasks"]["quarantined"] + shown["tasks"]["held"]
    return Part(_WAITING, rows, count, "Nothing waits for you.")
