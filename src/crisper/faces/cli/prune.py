"""`crisper prune`."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

import click

from crisper.errors import Refused, SettingsError
from crisper.faces.cli.decide import whoami
from crisper.faces.cli.output import console, emit, json_option, lines
from crisper.faces.cli.place import Place
from crisper.faces.cli.text import plural

if TYPE_CHECKING:
    from crisper.engine.pruner import Retention
    from crisper.store.base import Old
    from crisper.store.sql import SqlStore

RUNS_AGAIN = (
    "what has finished is refused only as long as it is on record: if its message comes again, it runs"
)


@click.command()
@click.option("--days", type=click.FloatRange(min=0), help="Default: crisper_retention_days.")
@click.option(
    "--lost-days",
    type=click.FloatRange(min=0),
    help="For tasks that were ever lost. Default: crisper_retention_lost_days.",
)
@click.option(
    "--audit-days",
    type=click.FloatRange(min=0),
    help="For events of forgotten tasks. Default: crisper_retention_audit_days.",
)
@click.option("--dry-run", is_flag=True, help="Count, and forget nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--reason", metavar="TEXT", default="asked for on the command line", help="Why; it is kept.")
@json_option
@click.pass_context
def prune(
    ctx: click.Context,
    days: float | None,
    lost_days: float | None,
    audit_days: float | None,
    dry_run: bool,
    yes: bool,
    reason: str,
    as_json: bool,
) -> None:
    """Forget tasks that have been over for so many days.

    Each goes with all its attempts and verdicts. What was ever lost stays for
    longer, and the events of all of them longer still. What is open, waits
    for a person, is being brought back, or is ordered to stop stays, however
    old it is. Workers do this by themselves, a little at a time; this does it
    at once. It cannot be undone.

    \b
    Examples:
      crisper -A proj prune --dry-run
      crisper -A proj prune --days 7 --lost-days 7 --reason 'the disk is full'
    """
    from crisper.engine.pruner import trusted_now

    place: Place = ctx.obj
    retention = _retention(place, days, lost_days, audit_days)
    days = retention.finished
    if days < 1:
        click.echo(f"crisper: {RUNS_AGAIN}", err=True)
    with place.store() as store:
        old = retention.old(trusted_now(store))
        count = _tasks(store, old, only_count=True)
        if not dry_run:
            _make_sure(count, days, yes)
            count, rest = _tasks(store, old), _rest(store, old)
            told = {"tasks": count, "rest": rest, **_days(retention), "reason": reason}
            store.note("pruned", None, None, whoami(), told)
    if as_json:
        emit({"dry_run": dry_run, **_days(retention), "tasks": count})
    else:
        were = "would be" if dry_run else "was" if count == 1 else "were"
        lines(console(place), f"{plural(count, 'task')} {were} forgotten that ended over {days:g} days ago.")


def _retention(
    place: Place, days: float | None, lost_days: float | None, audit_days: float | None
) -> Retention:
    """What was asked for, else what is set. 0 that is asked for means at once; 0 that is set, for ever."""
    from crisper.engine.pruner import Retention

    if days is None and place.settings.retention_days == 0:
        raise SettingsError("crisper_retention_days is 0, so everything is kept; say --days N to forget")
    asked = (days, lost_days, audit_days)
    finished, lost, events = (
        (one or math.inf) if wanted is None else wanted
        for wanted, one in zip(asked, place.settings.retention, strict=True)
    )
    return Retention(finished, max(finished, lost), events)


def _days(retention: Retention) -> dict[str, float | None]:
    """For JSON, which has no infinity: null is for ever."""
    names = ("days", "lost_days", "audit_days")
    return {name: None if days == math.inf else days for name, days in zip(names, retention, strict=True)}


def _make_sure(count: int, days: float, yes: bool) -> None:
    if yes:
        return
    what = f"{plural(count, 'task')} that ended over {days:g} days ago"
    if not sys.stdin.isatty():
        raise Refused(f"forget {what} without asking? Say --yes, or look first with --dry-run")
    if not click.confirm(f"Forget {what}? It cannot be undone.", err=True):
        raise Refused("nothing was done")


def _tasks(store: SqlStore, old: Old, *, only_count: bool = False) -> int:
    """A pass over all that is old."""
    from crisper.engine.pruner import BATCH
    from crisper.store.base import START

    after, count = START, 0
    with click.progressbar(length=0, label="looking", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        while True:
            pruned = store.prune_tasks(old, after, limit=BATCH, only_count=only_count)
            count += pruned.tasks
            bar.update(BATCH)
            if pruned.mark is None:
                return count
            after = pruned.mark


def _rest(store: SqlStore, old: Old) -> int:
    from crisper.engine.pruner import BATCH

    whole = 0
    while forgot := store.prune_rest(old, limit=BATCH):
        whole += forgot
    return whole
