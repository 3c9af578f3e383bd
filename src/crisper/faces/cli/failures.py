"""`crisper failures`."""

from __future__ import annotations

from typing import Any

import click

from crisper.faces.cli.output import Column, console, emit, json_option, lines, table
from crisper.faces.cli.place import Place
from crisper.faces.cli.text import age

_COLUMNS = (
    Column("attempts", right=True),
    Column("name", most=40, flexible=3, tail=True),
    Column("state"),
    Column("verdict"),
    Column("why", flexible=4),
    Column("last", right=True),
)


@click.command()
@click.option("--since", metavar="AGE", default="1d", show_default=True,
              help="Received so long ago or later: 90s, 2h, 7d.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, metavar="N",
              help="The largest so many groups.")  # fmt: skip
@json_option
@click.pass_obj
def failures(place: Place, since: str, limit: int, as_json: bool) -> None:
    """Attempts that failed, were lost or rejected, in groups.

    By the task's name, how it ended, the verdict on what was lost, and why:
    the type of the exception, or the verdict's reason. The groups are made of
    the newest 3,000.

    \b
    Examples:
      crisper -A proj failures --since 2h
      crisper -A proj failures --json | jq '.groups[0].example'
    """
    from crisper.engine import failures
    from crisper.engine.moments import age_ms

    with place.reading() as reading:
        answer = failures.failures(reading, since_ms=age_ms(since), limit=limit)
    if as_json:
        return emit(answer)
    out = console(place)
    if not answer["groups"]:
        return lines(out, "Nothing failed, was lost or rejected in that time.")
    table(out, _COLUMNS, map(_row, answer["groups"]))
    for sentence in left_out(answer, limit):
        click.echo(f"crisper: {sentence}", err=True)
    return None


def left_out(answer: dict[str, Any], limit: int) -> list[str]:
    """What the groups do not tell of."""
    told = [] if answer["complete"] else [f"only the newest {answer['looked_at']:,} failures are grouped"]
    return [*told, f"only the largest {limit} groups are shown"] if answer["more"] else told


def _row(group: dict[str, Any]) -> tuple[object, ...]:
    verdict = (group["verdict"] or "").replace("_", " ")
    return group["attempts"], group["name"], group["state"], verdict, group["why"], age(group["last_at"])
