"""`crisper sweep`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from crisper.errors import Refused
from crisper.faces.cli.output import console, emit, json_option, lines
from crisper.faces.cli.place import Place
from crisper.faces.cli.text import clean, plural

if TYPE_CHECKING:
    from crisper.faces.cli.acting import Sweep


@click.command()
@click.option("--dry-run", is_flag=True, help="Observe, say what would be declared, and change nothing.")
@json_option
@click.pass_context
def sweep(ctx: click.Context, dry_run: bool, as_json: bool) -> None:
    """One full sweep, for when no worker is left to sweep.

    Observes every live lease. A worker that renews is seen to live within a
    heartbeat; one whose lease stands still for its full length is declared
    lost, at once if its process is gone from this host. Then the attempts of
    all lost workers are closed, each with a recovery, which a live worker of
    its app carries out. Before all that, journals that dead workers left on
    this host are replayed.

    \b
    Examples:
      crisper -A proj sweep --dry-run
      crisper -A proj sweep
    """
    from crisper.faces.cli.acting import sweep as observe

    place: Place = ctx.obj
    with place.store() as store, place.survey() as survey, _progress() as progress:
        result = observe(place, store, dry_run=dry_run, progress=progress)
        known = {worker["id"]: worker for worker in survey.workers(everything=True)["workers"]}
    answer = _answer(result, known, dry_run)
    if as_json:
        emit(answer)
    else:
        _print(place, answer)
    if result.braked:
        raise Refused(
            "most workers fell silent at once, so none was declared: look at the registry and the network,"
            " then sweep again"
        )


def _answer(result: Sweep, known: dict[str, dict[str, Any]], dry_run: bool) -> dict[str, Any]:
    declared = [
        {
            "id": judged.worker,
            "hostname": known.get(judged.worker, {}).get("hostname"),
            "how": judged.how,
            "open_attempts": known.get(judged.worker, {}).get("open_attempts", 0),
        }
        for judged in result.declared
    ]
    to_close = sum(w["open_attempts"] for w in known.values() if w["state"] in ("lost", "gone"))
    closed = to_close + sum(one["open_attempts"] for one in declared) if dry_run else result.closed
    return {
        "dry_run": dry_run,
        "alive": result.alive,
        "declared": declared,
        "closed": closed,
        "braked": result.braked,
        "journals": result.journals,
    }


def _print(place: Place, answer: dict[str, Any]) -> None:
    out, dry = console(place), answer["dry_run"]
    for one in answer["declared"]:
        verb = "would be declared" if dry else "was declared"
        lines(out, f"{clean(one['hostname'] or one['id'])} {verb} lost: {one['how']}", style="red")
    if answer["journals"]:
        lines(out, f"{plural(answer['journals'], 'journal')} of dead workers on this host replayed.")
    closed = plural(answer["closed"], "attempt")
    were = "would be" if dry else "was" if answer["closed"] == 1 else "were"
    lines(out, f"{plural(answer['alive'], 'worker')} alive; {closed} {were} closed as lost.")


@contextmanager
def _progress() -> Iterator[Callable[[float, float], None]]:
    """A bar on stderr while it observes, if somebody is there to see it."""
    if not sys.stderr.isatty():
        yield lambda observed, whole: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    with Progress(
        TextColumn("observing leases"),
        BarColumn(),
        TextColumn("{task.completed:.0f} s of {task.total:.0f} s"),
        console=Console(stderr=True),
        transient=True,
    ) as shown:
        bar = shown.add_task("", total=1.0)
        yield lambda observed, whole: shown.update(bar, completed=observed, total=whole)
