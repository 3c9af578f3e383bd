"""`crisper tasks`."""

from __future__ import annotations

import sys
from typing import Any

import click

from crisper.faces.cli import completion
from crisper.faces.cli.filtering import filter_options, filters_of
from crisper.faces.cli.output import Column, console, emit, json_option, lines, table
from crisper.faces.cli.place import Place
from crisper.faces.cli.text import age, clean, short_ids

_COLUMNS = (
    Column("task", most=20, whole=True),
    Column("name", most=40, flexible=3, tail=True),
    Column("state"),
    Column("attempt", right=True),
    Column("worker", flexible=2),
    Column("queue", most=12, flexible=1),
    Column("age", right=True),
)


@click.command()
@click.option(
    "--state",
    "states",
    multiple=True,
    metavar="STATE",
    shell_complete=completion.states,
    help="claimed, running, recovering, quarantined, held, succeeded, failed, … May be repeated.",
)
@filter_options
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, metavar="N")
@click.option("--cursor", metavar="CURSOR", help="Go on where an earlier page ended (its `next`).")
@json_option
@click.pass_obj
def tasks(place: Place, /, limit: int, cursor: str | None, as_json: bool, **asked: Any) -> None:
    """Tasks by their latest attempt, the newest first.

    Times are when it was received. A question by name, worker, queue or
    argument looks at 30,000 attempts at a time, and says how far back that was.

    \b
    Examples:
      crisper -A proj tasks --state quarantined
      crisper -A proj tasks --state running --older-than 10m
      crisper -A proj tasks --name 'shop.tasks.*' --worker celery@web-1
      crisper -A proj tasks --lost-by 5f2c9d0b7c1e4c0f8f0e6a1b2c3d4e5f
      crisper -A proj tasks --argument ann@example.com --since 1d --until 2h
      crisper -A proj tasks --state held --json | jq -r '.tasks[].task_id' |
        xargs crisper -A proj recover --yes
    """
    from crisper.engine.filters import Filters, place_of

    if cursor is not None:
        place_of(cursor)  # what makes no sense is said before anything is connected to
    filters = filters_of(**asked)
    with place.survey() as survey:
        answer = survey.tasks(filters, limit=limit, cursor=cursor)
    if answer["looked_back_to"]:
        at = clean(answer["looked_back_to"].replace("T", " ")[:19])
        click.echo(f"crisper: looked back to {at} UTC; --cursor goes on from there", err=True)
    if as_json:
        return emit(answer)
    out = console(place)
    short = short_ids(task["task_id"] for task in answer["tasks"])
    if answer["tasks"]:
        table(out, _COLUMNS, (_row(task, short) for task in answer["tasks"]))
    else:
        narrowed = filters != Filters() or cursor is not None
        none = "No such task is on record." if narrowed else "No task is on record yet."
        lines(out, "No such task is there." if answer["looked_back_to"] else none)
    if answer["next"]:
        lines(out, "There are more: go on with --cursor", style="dim")
        click.echo(answer["next"], file=sys.stdout)
    return None


def _row(task: dict[str, Any], short: dict[str, str]) -> tuple[object, ...]:
    return (
        *(short[task["task_id"]], task["name"], task["state"], task["attempt"]),
        *(task["worker"], task["queue"], age(task["received_at"])),
    )
