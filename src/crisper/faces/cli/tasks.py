"""`crisper tasks`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from crisper.faces.cli import completion
from crisper.faces.cli.output import Column, console, emit, json_option, lines, table
from crisper.faces.cli.place import Place
from crisper.faces.cli.text import age, clean, short_ids

if TYPE_CHECKING:
    from crisper.engine.filters import Filters

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
@click.option("--name", metavar="GLOB", help="The task's name; * and ? stand for anything.")
@click.option(
    "--worker", metavar="HOSTNAME", help="Where its latest attempt is or was; an incarnation's id does too."
)
@click.option("--queue", metavar="QUEUE", help="The queue its message came from.")
@click.option("--id", "id", metavar="TASK_ID", help="Its id, or 6 characters or more that it begins with.")
@click.option("--argument", metavar="TEXT",
              help="A text in its arguments as they are on record: redacted and shortened.")  # fmt: skip
@click.option("--since", metavar="TIME", help="Received then or later: 2h (ago), 2025-03-09T03:12 (UTC).")
@click.option("--until", metavar="TIME", help="Received before then.")
@click.option("--older-than", metavar="AGE", help="Received so long ago or longer: 90s, 10m, 2h, 1d12h.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, metavar="N")
@click.option("--cursor", metavar="CURSOR", help="Go on where an earlier page ended (its `next`).")
@json_option
@click.pass_obj
def tasks(place: Place, /, limit: int, cursor: str | None, as_json: bool, **asked: Any) -> None:
    """Tasks by their latest attempt, the newest first.

    Times are when it was received. A question by name, worker, queue or
    argument looks at 100,000 attempts at a time, and says how far back that was.

    \b
    Examples:
      crisper -A proj tasks --state quarantined
      crisper -A proj tasks --state running --older-than 10m
      crisper -A proj tasks --name 'shop.tasks.*' --worker celery@web-1
      crisper -A proj tasks --argument ann@example.com --since 1d --until 2h
      crisper -A proj tasks --state held --json | jq -r '.tasks[].task_id' |
        xargs crisper -A proj recover --yes
    """
    from crisper.engine.filters import Filters, place_of

    if cursor is not None:
        place_of(cursor)  # what makes no sense is said before anything is connected to
    filters = _filters(**asked)
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


def _filters(
    *, states: tuple[str, ...], older_than: str | None, since: str | None, until: str | None, **others: Any
) -> Filters:
    from crisper.engine.filters import Filters
    from crisper.engine.moments import age_ms, moment

    return Filters(
        states,
        older_than_ms=None if older_than is None else age_ms(older_than),
        since=None if since is None else moment(since),
        until=None if until is None else moment(until),
        **others,
    )


def _row(task: dict[str, Any], short: dict[str, str]) -> tuple[object, ...]:
    return (
        *(short[task["task_id"]], task["name"], task["state"], task["attempt"]),
        *(task["worker"], task["queue"], age(task["received_at"])),
    )
