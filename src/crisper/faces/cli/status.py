"""`crisper status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from crisper.faces.cli.output import console, emit, json_option, lines
from crisper.faces.cli.place import Place
from crisper.faces.cli.text import clean, plural

if TYPE_CHECKING:
    from rich.console import Console


@click.command()
@json_option
@click.pass_obj
def status(place: Place, as_json: bool) -> None:
    """How it stands: workers, attempts, and what waits for a person.

    \b
    Examples:
      crisper -A proj status
      crisper -A proj status --json | jq .tasks.quarantined
    """
    with place.survey() as survey:
        answer = survey.status()
    if as_json:
        return emit(answer)
    return _print(console(place), answer, place.typed)


def _print(out: Console, answer: dict[str, Any], typed: str) -> None:
    registry, sweeper, tasks = answer["registry"], answer["sweeper"], answer["tasks"]
    now = registry["now"].replace("T", " ")[:19]
    rows = [
        ("registry", f"{clean(registry['url'])}, schema {clean(registry['schema'])}, {now} UTC"),
        ("workers", _counts({k: v for k, v in answer["workers"].items() if k != "errors"})),
        ("messages", _counts(answer["messages"])),
        ("attempts", _counts(answer["attempts"])),
        ("tasks", _counts({word: tasks[word] for word in ("quarantined", "held")})),
        ("last 24 h", f"{tasks['lost_24h']} lost, {tasks['recovered_24h']} recovered"),
        ("sweeper", _who_sweeps(sweeper)),
    ]
    for name, sentence in rows:
        lines(out, f"{name:<11}{sentence}")
    for advice in _advice(answer, typed):
        lines(out, f"→ {advice}", style="yellow")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {word}" for word, count in counts.items())


def _who_sweeps(sweeper: dict[str, Any]) -> str:
    if sweeper["leader"] is None:
        return "nobody leads yet"
    since = (sweeper["since"] or "").replace("T", " ")[:19]
    return f"{clean(sweeper['worker'] or sweeper['leader'])} leads since {since} UTC"


def _advice(answer: dict[str, Any], typed: str) -> list[str]:
    tasks, sweeper, workers = answer["tasks"], answer["sweeper"], answer["workers"]
    advice = [
        f"{plural(tasks[word], 'task')} {word}: {typed} tasks --state {word}"
        for word in ("quarantined", "held")
        if tasks[word]
    ]
    if workers["errors"]:
        count = plural(workers["errors"], "error")
        advice.append(f"{count} in Crisper's own code: {typed} workers")
    if sweeper["recoveries_under_way"]:
        count = sweeper["recoveries_under_way"]
        noun = "recovery" if count == 1 else "recoveries"
        advice.append(f"{count} {noun} under way: {typed} tasks --state recovering")
    if sweeper["workers_to_clear"] and not workers["alive"]:
        advice.append(f"attempts of lost workers are still open, and nobody sweeps: {typed} sweep")
    elif workers["suspect"] and not workers["alive"]:
        advice.append(f"no worker renews its lease any more: start one, or run {typed} sweep")
    if not any(workers.values()):
        advice.append("no worker is on record: start one whose app calls crisper.install(app)")
    return advice
