"""`crisper recover`, `crisper discard` and `crisper stop`: a person decides."""

from __future__ import annotations

import getpass
import os
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from crisper.errors import Refused
from crisper.faces.cli import bulk
from crisper.faces.cli.decided import exit_code, report
from crisper.faces.cli.filtering import filters_of
from crisper.faces.cli.output import json_option
from crisper.faces.cli.place import Place
from crisper.faces.cli.show import whole_id
from crisper.faces.cli.text import clean, plural

if TYPE_CHECKING:
    from crisper.engine.control import Done
    from crisper.engine.selection import Selection
    from crisper.engine.survey import Survey


def _options(verb: str) -> Callable[[Any], Any]:
    def add(command: Any) -> Any:
        for option in (
            json_option,
            click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
            click.option("--yes", is_flag=True, help="Do not ask."),
            click.option("--reason", metavar="TEXT", default="asked for on the command line",
                         help="Why; it is kept with the task's story."),
            bulk.bulk_options(verb),
            click.argument("task_ids", nargs=-1, metavar="[TASK_ID...]"),
        ):  # fmt: skip
            command = option(command)
        return command

    return add


@click.command()
@_options("recover")
@click.pass_context
def recover(ctx: click.Context, /, **options: Any) -> None:
    """Run tasks again: quarantined, held, failed by their loss, or stopped.

    The kept message is sent again as the task's next attempt, and its losses
    are counted anew. What is running or has finished is refused, because it
    would run twice. With an app the message is sent at once; without one the
    decision is put on record, and a live worker of the app sends it.

    \b
    Examples:
      crisper -A proj recover 0d9c3f5e-…
      crisper -A proj recover 0d9c3f5e-… --reason 'the disk is fixed'
      crisper -A proj recover --all --name 'shop.*' --dry-run
      crisper -A proj recover --all --state failed --max 500 --yes
      crisper -A proj recover --all --argument ann@example.com --since 1d
    """
    from crisper.engine import control
    from crisper.faces.cli.acting import carry_out

    def act(place: Place, survey: Survey, ids: list[str], **how: Any) -> list[Done]:
        with place.store() as store:
            return carry_out(place, store, control.recover(store, survey, ids, by=whoami(), **how))

    _decide(ctx, "recover", control.may_recover, act, **options)


@click.command()
@_options("discard")
@click.pass_context
def discard(ctx: click.Context, /, **options: Any) -> None:
    """Close quarantined or held tasks for good.

    Nothing runs any more for them. Their messages are kept, so that
    `crisper recover` can still undo it.

    \b
    Examples:
      crisper -A proj discard 0d9c3f5e-… --reason 'the order was cancelled'
      crisper -A proj discard ID ID ID --dry-run
      crisper -A proj discard --all --state held --queue mail
    """
    from crisper.engine import control

    def act(place: Place, survey: Survey, ids: list[str], **how: Any) -> list[Done]:
        with place.store() as store:
            return control.discard(store, survey, ids, by=whoami(), **how)

    _decide(ctx, "discard", control.may_discard, act, **options)


@click.command()
@_options("stop")
@click.pass_context
def stop(ctx: click.Context, /, **options: Any) -> None:
    """Stop tasks that run, wait, or are being brought back.

    The order is put on record and holds for the very attempt that it finds,
    also while its worker is down. What has not begun never begins; what runs
    in a pool of processes has its process ended (SIGTERM, after 5 s SIGKILL);
    what was lost is not brought back. The task ends as revoked, its callers
    are told so, and its message is kept: `crisper recover` undoes it.

    
    Examples:
      crisper -A proj stop 0d9c3f5e-… --reason 'the wrong customer'
      crisper -A proj stop ID ID ID --dry-run
      crisper -A proj stop --all --name shop.report --reason 'too many'
      crisper -A proj stop --all --worker celery@web-1 --older-than 2h
    """
    from crisper.engine import control
    from crisper.faces.cli.acting import carry_out

    def act(place: Place, survey: Survey, ids: list[str], **how: Any) -> list[Done]:
        with place.store() as store:
            return carry_out(place, store, control.stop(store, survey, ids, by=whoami(), **how))

    _decide(ctx, "stop", control.may_stop, act, **options)


def _decide(
    ctx: click.Context, verb: str, may: Any, act: Callable[..., list[Done]],
    *, task_ids: tuple[str, ...], reason: str, yes: bool, dry_run: bool, as_json: bool, everything: bool,
    most: int, **filters: Any,
) -> None:  # fmt: skip
    from crisper.engine import control

    place: Place = ctx.obj
    asked = bulk.Asked(everything, filters_of(**filters), most)
    bulk.check(verb, task_ids, asked)
    chosen = bulk.select(place, verb, asked) if asked.everything else None
    only = bulk.wanted_states(verb, asked) if asked.everything else None
    done: list[Done] = []
    with place.survey() as survey:

        def do(ids: list[str]) -> list[Done]:
            if dry_run:
                return control.would(survey, ids, may, only=only)
            return act(place, survey, ids, reason=reason, only=only)

        if chosen is None:
            ids = [whole_id(survey, given) for given in task_ids]
            for id in ids:
                standing = survey.standing(id)
                if standing and may(standing)[0] == "done" and (warning := control.to_know(verb, standing)):
                    click.echo(f"crisper: {clean(id, most=60)}: {warning}.", err=True)
            if len(ids) > 1 and not dry_run:
                _make_sure(verb, len(ids), yes)
            done += do(ids)
            report(place, verb, done, dry_run=dry_run, as_json=as_json)
        else:
            _prepare(verb, chosen, sure=yes or dry_run)
            try:
                bulk.in_batches(do, [task.task_id for task in chosen.tasks], done)
            finally:
                left = chosen.matching - len(done)
                report(place, verb, done, dry_run=dry_run, as_json=as_json, left=left)
                if undone := len(chosen.tasks) - len(done):
                    click.echo(f"crisper: not done: {plural(undone, 'task')}, left as they are.", err=True)
    ctx.exit(exit_code(done))


def _prepare(verb: str, chosen: Selection, *, sure: bool) -> None:
    """Say what is about to be done, and ask."""
    for warning in bulk.warnings(verb, chosen):
        click.echo(f"crisper: {warning}.", err=True)
    if sure or not chosen.tasks:
        return
    if sys.stdin.isatty():
        for line in bulk.summary(chosen.tasks):
            click.echo(line, err=True)
    _make_sure(verb, len(chosen.tasks), yes=False)


def _make_sure(verb: str, many: int, yes: bool) -> None:
    """One id that somebody wrote out is meant; a list may have come from anywhere."""
    if yes:
        return
    count = plural(many, "task")
    if not sys.stdin.isatty():
        raise Refused(f"{verb} {count} without asking? Say --yes, or look first with --dry-run")
    if not click.confirm(f"{verb.capitalize()} {count}?", err=True):
        raise Refused("nothing was done")


def whoami() -> str:
    """Who decides, for the audit row."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # containers often have a user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
