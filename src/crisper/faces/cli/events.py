"""`crisper events`."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from crisper.errors import RegistryError
from crisper.faces.cli.output import COLOURS, console, emit, hanging, json_option, lines
from crisper.faces.cli.place import Place
from crisper.faces.cli.show import whole_id
from crisper.faces.cli.story import of_event
from crisper.faces.cli.text import SHORT, clean, short_ids

if TYPE_CHECKING:
    from rich.console import Console

    from crisper.engine.following import Following

#: Between two looks at what is new.
POLL_SECONDS = 1.0

#: Ids that are no UUIDs are cut to it.
_ID_MOST = 20

#: What Crisper writes down. A newer one may write others, so others may be asked for.
KINDS = (
    *("lost", "vanished", "verdict", "recovered", "recovery_delayed", "refused", "adopted"),
    *("overlap", "late_finish", "stop", "worker_enrolled", "worker_gone", "worker_lost"),
    *("wedged", "silent", "stalled", "went_on", "brake", "clock_mended", "pruned"),
)


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--task", metavar="TASK_ID", help="Of this task; the beginning of its id will do.")
@click.option("--kind", "kinds", multiple=True, metavar="KIND",
              shell_complete=lambda ctx, param, begun: [kind for kind in KINDS if kind.startswith(begun)],
              help=f"{', '.join(KINDS[:4])}, … Repeatable.")  # fmt: skip
@click.option(
    "--by", metavar="GLOB", help="Written by these: a person, a worker; * and ? stand for anything."
)
@click.option("--since", metavar="AGE", help="Only what happened so long ago or later: 90s, 2h, 7d.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, metavar="N",
              help="The newest so many.")  # fmt: skip
@json_option
@click.pass_obj
def events(
    place: Place,
    follow: bool,
    task: str | None,
    kinds: tuple[str, ...],
    by: str | None,
    since: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """The audit trail: what happened, who decided, and on what evidence.

    The newest so many events, the oldest of them first. Times are UTC, by the
    registry's clock. With --follow and --json each event is one line.

    \b
    Examples:
      crisper -A proj events --since 1h
      crisper -A proj events --task 0d9c3f5e
      crisper -A proj events --follow --kind verdict --kind worker_lost
      crisper -A proj events --kind verdict --kind stop --by 'ann@*'
      crisper -A proj events --follow --json | jq -c 'select(.kind=="lost")'
    """
    from crisper.engine.following import Following
    from crisper.engine.moments import age_ms

    since_ms = None if since is None else age_ms(since)
    _doubt(kinds)
    with place.survey() as survey:
        task_id = None if task is None else whole_id(survey, task)
        if follow:
            shown = _Shown(place, as_json=as_json)
            return _follow(Following(survey, task_id=task_id, kinds=kinds, by=by), shown, limit, since_ms)
        answer = survey.newest_events(task_id=task_id, kinds=kinds, by=by, since_ms=since_ms, limit=limit)
    if answer["more"]:
        click.echo(f"crisper: only the newest {limit} are shown; --limit shows more", err=True)
    if as_json:
        return emit(answer)
    _Shown(place).print(answer["events"])
    return None if answer["events"] else lines(console(place), "No such event is on record.")


def _doubt(kinds: tuple[str, ...]) -> None:
    import difflib

    for kind in kinds:
        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, n=1)
            meant = f"Did you mean {near[0]!r}?" if near else f"It writes {', '.join(KINDS)}"
            click.echo(f"crisper: this Crisper writes no event {clean(kind, most=40)!r}. {meant}", err=True)


def _follow(following: Following, shown: _Shown, limit: int, since_ms: int | None) -> None:
    shown.print(following.begin(time.monotonic(), limit=limit, since_ms=since_ms))
    away = False
    while True:
        time.sleep(POLL_SECONDS)
        try:
            for page in following.tick(time.monotonic()):
                shown.print(page)
        except RegistryError as exc:
            if not away:
                click.echo(f"crisper: {clean(exc, most=2000)} Going on as soon as it answers.", err=True)
            away = True
        else:
            if away:
                click.echo("crisper: the registry answers again; nothing was missed.", err=True)
            away = False


class _Shown:
    """Events as people read them, under the day of each; or one JSON object per line."""

    def __init__(self, place: Place, *, as_json: bool = False) -> None:
        self._console: Console | None = None if as_json else console(place)
        self._day = ""

    def print(self, page: list[dict[str, Any]]) -> None:
        if self._console is None:
            for event in page:
                click.echo(json.dumps(event))
            return
        short = short_ids({event["task_id"] for event in page if event["task_id"]})
        for event in page:
            self._print(self._console, event, short.get(event["task_id"], "-"))

    def _print(self, out: Console, event: dict[str, Any], id: str) -> None:
        from rich.cells import cell_len, set_cell_size

        entry = of_event(event)
        if entry.at[:10] != self._day:
            self._day = entry.at[:10]
            lines(out, f"{self._day} (UTC)", style="dim")
        number = f"#{entry.attempt}" if entry.attempt else ""
        shown = clean(id, most=_ID_MOST)
        width = min(max(SHORT, cell_len(shown)), _ID_MOST)
        head = f"{entry.at[11:23]:<12}  {set_cell_size(shown, width)} {number:<4}"
        hanging(out, head, entry.sentence, style=COLOURS.get(entry.word, ""))
        for detail in entry.details:
            hanging(out, " " * 14, detail, style="dim")
