"""`crisper demo`: a worker is killed before your eyes, on Celery alone, then with Crisper."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from crisper.faces.cli.output import WIDTH, console, emit, json_option
from crisper.faces.cli.place import Place

if TYPE_CHECKING:
    from rich.console import Console

    from crisper.faces.demo.interrupts import Interrupts
    from crisper.faces.demo.round import Result


@click.command()
@click.option("--long", "long", is_flag=True, help="One long task, which goes on at its last checkpoint.")
@json_option
@click.pass_obj
def demo(place: Place, long: bool, as_json: bool) -> None:
    """Kill a busy worker: on Celery alone, then with Crisper.

    Needs no server, no app and no configuration: real workers on a broker in
    a temporary folder, about half a minute, and nothing stays behind. Exit 0
    only if the round with Crisper lost no task and ran none twice.

    With --long, one task reads many documents, and goes on where it was.

    \b
    Examples:
      crisper demo
      crisper demo --long
      crisper demo --json | jq .with_crisper
    """
    from crisper.faces.demo.interrupts import Interrupts
    from crisper.faces.demo.report import as_json as in_json
    from crisper.faces.demo.report import proven

    out = _on_stderr(place) if as_json else console(place)
    with Interrupts() as interrupts:
        if long:
            return _long(out, interrupts, as_json)
        alone = _round(out, interrupts, "Round one: Celery alone", with_crisper=False)
        crisper = _round(out, interrupts, "Round two: the same, and crisper.install(app)", with_crisper=True)
    if as_json:
        emit(in_json(alone, crisper))
    else:
        _report(out, alone, crisper)
    if not proven(crisper):
        raise click.exceptions.Exit(1)


def _long(out: Console, interrupts: Interrupts, as_json: bool) -> None:
    from contextlib import closing

    from crisper.faces.demo.long import LongRound, report, shown
    from crisper.faces.demo.long import as_json as in_json
    from crisper.faces.demo.stage import Stage
    from crisper.faces.demo.telling import Telling

    stage = Stage(with_crisper=True, check=interrupts.check)
    with closing(stage), Telling(out, "One long task, and crisper.install(app)", 1) as telling:
        result = LongRound(stage, telling).play()
    if as_json:
        emit(in_json(result))
    else:
        report(out, result)
    if not shown(result):
        raise click.exceptions.Exit(1)


def _on_stderr(place: Place) -> Console:
    from rich.console import Console

    width = None if sys.stderr.isatty() else WIDTH
    plain = True if place.no_color else None
    return Console(stderr=True, no_color=plain, width=width, highlight=False, markup=False, emoji=False)


def _round(out: Console, interrupts: Interrupts, title: str, *, with_crisper: bool) -> Result:
    from contextlib import closing

    from crisper.faces.demo.round import TASKS, Round
    from crisper.faces.demo.stage import Stage
    from crisper.faces.demo.telling import Telling

    stage = Stage(with_crisper=with_crisper, check=interrupts.check)
    with closing(stage), Telling(out, title, TASKS) as telling:
        return Round(stage, telling).play()


def _report(out: Console, alone: Result, crisper: Result) -> None:
    from crisper.faces.cli.show import print_story
    from crisper.faces.demo.report import report

    report(out, alone, crisper)
    if crisper.story is not None:
        out.print("\nThe story of one of them, as `crisper show` tells it:\n", style="bold")
        print_story(out, crisper.story)
