"""`crisper status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from crisper.faces.cli.output import console, emit, json_option, lines
from crisper.faces.cli.place import Place
from crisper.faces.cli.queues import stranded
from crisper.faces.cli.text import clean, plural

if TYPE_CHECKING:
    from rich.console import Console

    from crisper.celery.rollcall import RollCall
    from crisper.engine.survey import Survey


@click.command()
@json_option
@click.pass_obj
def status(place: Place, as_json: bool) -> None:
    """How it stands: workers, attempts, and what waits for a person.

    With an app it also asks the broker, for a second, which workers answer.
    Those that are not on record are blind: nobody records what they run, or
    brings it back. Whether a worker is dead is never judged by its silence.

    \b
    Examples:
      crisper -A proj status
      crisper -A proj status --json | jq .tasks.quarantined
    """
    call = _call(place)
    with place.survey() as survey:
        answer = survey.status()
        answer["workers"]["blind"] = None if call is None else blind(survey, call)
    if as_json:
        return emit(answer)
    return _print(console(place), answer, place.typed)


def blind(survey: Survey, call: RollCall, known: set[str] | None = None) -> list[str] | None:
    """Nodes that answer and are not on record; None if the broker could not be asked. `known`: who was on
    record when the call began, if that was earlier."""
    known = survey.living() if known is None else known
    present = call.present()
    if present is None:
        return None
    known |= survey.living()  # who starts or stops meanwhile is not blind
    return [name for name in present if name not in known]


def _call(place: Place) -> RollCall | None:
    if place.app is None:
        return None
    from crisper.celery.rollcall import RollCall

    return RollCall(place.app)


def _print(out: Console, answer: dict[str, Any], typed: str) -> None:
    registry, sweeper, tasks = answer["registry"], answer["sweeper"], answer["tasks"]
    now = registry["now"].replace("T", " ")[:19]
    rows = [
        ("registry", f"{clean(registry['url'])}, schema {clean(registry['schema'])}, {now} UTC"),
        ("workers", _counts({word: answer["workers"][word] for word in _STATES})),
        ("messages", _counts({"unclaimed": answer["messages"]["unclaimed"]})),
        ("attempts", _counts(answer["attempts"])),
        ("tasks", _counts({word: tasks[word] for word in ("quarantined", "held")})),
        ("last 24 h", f"{tasks['lost_24h']} lost, {tasks['recovered_24h']} recovered"),
        ("sweeper", _who_sweeps(sweeper)),
    ]
    for name, sentence in rows:
        lines(out, f"{name:<11}{sentence}")
    for sentence in advice(answer, typed):
        lines(out, f"→ {sentence}", style="yellow")


_STATES = ("alive", "suspect", "lost", "gone")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {word}" for word, count in counts.items())


def _who_sweeps(sweeper: dict[str, Any]) -> str:
    if sweeper["leader"] is None:
        return "nobody leads yet"
    who, since = clean(sweeper["worker"] or sweeper["leader"]), sweeper["since"].replace("T", " ")[:19]
    if sweeper["state"] in ("lost", "gone"):
        return f"nobody leads; {who}, which did, is {sweeper['state']}"
    return f"{who} leads since {since} UTC"


def advice(answer: dict[str, Any], typed: str) -> list[str]:
    """What is worth doing, with the command that does it or shows more."""
    tasks, sweeper, workers = answer["tasks"], answer["sweeper"], answer["workers"]
    told = [
        f"{plural(tasks[word], 'task')} {word}: {typed} tasks --state {word}"
        for word in ("quarantined", "held")
        if tasks[word]
    ]
    told += [
        f"{plural(workers[word], 'worker')} {word}, though alive: {typed} workers"
        for word in ("wedged", "silent")
        if workers[word]
    ]
    if workers["stalled"]:
        told.append(f"{plural(workers['stalled'], 'running task')} stalled: {typed} workers")
    if workers["errors"]:
        count = plural(workers["errors"], "error")
        told.append(f"{count} in Crisper's own code: {typed} workers")
    if workers["blind"]:
        told.append(_blind(workers["blind"]))
    if len(workers["versions"]) > 1:
        versions = ", ".join(f"{clean(v, most=20)} ({n})" for v, n in sorted(workers["versions"].items()))
        told.append(f"workers run several versions of Crisper: {versions}: {typed} workers")
    if sweeper["recoveries_under_way"]:
        count = sweeper["recoveries_under_way"]
        noun = "recovery" if count == 1 else "recoveries"
        told.append(f"{count} {noun} under way: {typed} tasks --state recovering")
    told += [f"{sentence}: {typed} queues" for sentence in _unconsumed(answer["messages"]["unconsumed"])]
    if sweeper["workers_to_clear"] and not workers["alive"]:
        told.append(f"attempts of lost workers are still open, and nobody sweeps: {typed} sweep")
    elif workers["suspect"] and not workers["alive"]:
        told.append(f"no worker renews its lease any more: start one, or run {typed} sweep")
    if not any(workers[word] for word in (*_STATES, "errors")):
        told.append("no worker is on record: start one whose app calls crisper.install(app)")
    return told


#: Blind workers, or queues without any, that are named; there may be hundreds.
_NAMED = 5


def _unconsumed(queues: list[dict[str, Any]]) -> list[str]:
    told = [stranded(one["queue"], one["recovering"]) for one in queues[:_NAMED]]
    if rest := queues[_NAMED:]:
        count = plural(sum(one["recovering"] for one in rest), "task")
        told.append(f"{count} recovering in {plural(len(rest), 'more queue')} that no live worker consumes")
    return told


def _blind(names: list[str]) -> str:
    named = ", ".join(clean(name, most=60) for name in names[:_NAMED])
    if len(names) > _NAMED:
        named += f" and {len(names) - _NAMED} more"
    answer, are, they = ("answers", "is", "it runs") if len(names) == 1 else ("answer", "are", "they run")
    return (
        f"{plural(len(names), 'worker')} {answer} at the broker and {are} not on record: {named}."
        f" Nobody brings back what {they}: install Crisper there, or look for 'crisper:' in the log"
    )
