"""`crisper show TASK_ID`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from crisper.errors import TaskNotFound
from crisper.faces.cli.output import COLOURS, console, emit, hanging, json_option, lines
from crisper.faces.cli.place import Place
from crisper.faces.cli.story import Entry, advice, story
from crisper.faces.cli.text import clean

if TYPE_CHECKING:
    from rich.console import Console

    from crisper.engine.survey import Survey

_PREVIEW_MOST = 600


@click.command()
@click.argument("task_id")
@json_option
@click.pass_obj
def show(place: Place, task_id: str, as_json: bool) -> None:
    """One task's whole story: attempts, verdicts, evidence, recoveries.

    Times are UTC, by the registry's clock. The beginning of an id will do
    where it is unambiguous.

    \b
    Examples:
      crisper -A proj show 0d9c3f5e
      crisper -A proj show 0d9c3f5e-… --json | jq '.verdicts[].reason'
    """
    from crisper.engine.survey import STORY_MOST

    with place.survey() as survey:
        shown = survey.task(whole_id(survey, task_id))
        waiting = survey.published(task_id) if shown is None else None
    if waiting is not None:
        return emit(waiting) if as_json else _print_waiting(console(place), waiting)
    if shown is None:
        raise not_found(task_id)
    for what in ("attempts", "events"):
        if len(shown[what]) >= STORY_MOST:
            click.echo(f"crisper: only the newest {STORY_MOST} {what} are shown", err=True)
    if as_json:
        return emit(shown)
    return print_story(console(place), shown, typed=place.typed)


def _print_waiting(out: Console, waiting: dict[str, Any]) -> None:
    at = (waiting["published_at"] or "").replace("T", " ")[:19]
    args, kwargs = _preview(waiting["args_preview"]), _preview(waiting["kwargs_preview"])
    lines(out, f"task    {clean(waiting['task_id'])}", style="bold")
    lines(out, f"name    {clean(waiting['name'])}", "state   published")
    lines(out, f"args    {args}", f"kwargs  {kwargs}")
    queue = clean(waiting["queue"])
    lines(out, f"It was published at {at} UTC to the queue {queue}, and no worker has claimed it.")


def not_found(task_id: str) -> TaskNotFound:
    return TaskNotFound(
        f"no task {clean(task_id, most=60)} is on record; `crisper tasks` lists those that are"
    )


def whole_id(survey: Survey, given: str) -> str:
    """The one id that this is, or begins. Raises `TaskNotFound` if it begins several, naming them."""
    if survey.standing(given) is not None:
        return given
    candidates = survey.ids_like(given)
    if len(candidates) > 1:
        raise TaskNotFound(f"{clean(given, most=60)} begins several ids: {', '.join(map(clean, candidates))}")
    return candidates[0] if candidates else given


def print_story(out: Console, shown: dict[str, Any], *, typed: str = "crisper") -> None:
    """`shown` as `Survey.task` answers it."""
    lines(out, f"task    {clean(shown['task_id'])}", style="bold")
    lines(out, f"name    {clean(shown['name'])}")
    lines(out, f"state   {shown['state']}", style=COLOURS.get(shown["state"], ""))
    lines(out, f"args    {_preview(shown['args_preview'])}", f"kwargs  {_preview(shown['kwargs_preview'])}")
    day = ""
    for entry in story(shown):
        if entry.at[:10] != day:
            day = entry.at[:10]
            out.print()
            lines(out, f"{day} (UTC)", style="dim")
        _print_entry(out, entry)
    for hint in advice(shown, typed):
        lines(out, hint, style="yellow")


def _print_entry(out: Console, entry: Entry) -> None:
    number = f"#{entry.attempt}" if entry.attempt else ""
    hanging(out, f"{entry.at[11:23]}  {number:<4}", entry.sentence, style=COLOURS.get(entry.word, ""))
    for detail in entry.details:
        hanging(out, " " * 18, detail, style="dim")


def _preview(value: object) -> str:
    return clean(json.dumps(value, ensure_ascii=False), most=_PREVIEW_MOST)
