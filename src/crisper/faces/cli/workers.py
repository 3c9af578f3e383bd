"""`crisper workers`."""

from __future__ import annotations

from typing import Any

import click

from crisper.faces.cli.output import Column, console, emit, json_option, lines, table
from crisper.faces.cli.place import Place
from crisper.faces.cli.story import death
from crisper.faces.cli.text import age, clean, plural

_COLUMNS = (
    Column("worker", flexible=3),
    Column("state"),
    Column("pid", right=True),
    Column("open", right=True),
    Column("pool", most=12),
    Column("queues", flexible=2),
    Column("up", right=True),
    Column("seen", right=True),
)


@click.command()
@click.option("--all", "everything", is_flag=True, help="Also those that ended more than a day ago.")
@json_option
@click.pass_obj
def workers(place: Place, everything: bool, as_json: bool) -> None:
    """Every life of every worker: alive, suspect, lost or gone.

    A suspect worker has not renewed its lease for half of it. Nobody is
    judged by that: it is only shown. A lost one says on what evidence. One
    that lives and is wedged, silent, or runs a stalled task says that too.

    \b
    Examples:
      crisper -A proj workers
      crisper -A proj workers --json | jq '.workers[] | select(.state=="lost")'
    """
    with place.survey() as survey:
        answer = survey.workers(everything=everything)
    if as_json:
        return emit(answer)
    out = console(place)
    if not answer["workers"]:
        return lines(out, "No worker is on record. Start one whose app calls crisper.install(app).")
    table(out, _COLUMNS, map(_row, answer["workers"]))
    for worker in answer["workers"]:
        if worker["state"] == "lost":
            why = death(worker["evidence"])
            lines(out, f"{clean(worker['hostname'])} was lost {age(worker['ended_at'])} ago: {why}")
        for one in worker["ails"]:
            lines(out, f"{clean(worker['hostname'])} {ailment(one)}", style="yellow")
        if worker["journal_bytes"]:
            lines(
                out,
                f"{clean(worker['hostname'])} replays its journal: {worker['journal_bytes']:,} bytes of"
                " what it did while the registry was away are not on record yet.",
                style="yellow",
            )
        if worker["errors"]:
            count = plural(worker["errors"], "error")
            lines(
                out,
                f"{clean(worker['hostname'])} has counted {count} in Crisper's own code; its tasks go on."
                " Look for 'internal error' in its log, and report it.",
                style="yellow",
            )
    return None


def ailment(one: dict[str, Any]) -> str:
    """One thing that ails a worker: what it is, and why."""
    kind, sentence = clean(str(one.get("kind"))), clean(str(one.get("sentence")), most=500)
    if one.get("task_id"):
        return f"runs {clean(one['task_id'], most=60)}, which is {kind}: {sentence}"
    return f"is {kind}: {sentence}"


def _row(worker: dict[str, Any]) -> tuple[object, ...]:
    pool = worker["pool"]
    if pool and worker["concurrency"]:
        pool = f"{pool}×{worker['concurrency']}"
    queues = ",".join(map(str, worker["queues"]))
    times = age(worker["started_at"]), age(worker["seen_at"])
    return worker["hostname"], worker["state"], worker["pid"], worker["open_attempts"], pool, queues, *times
