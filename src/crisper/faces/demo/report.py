"""The two rounds side by side, for people and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crisper.faces.cli.output import Column, lines, table
from crisper.faces.cli.text import plural
from crisper.faces.demo.round import Result

if TYPE_CHECKING:
    from rich.console import Console


def proven(crisper: Result) -> bool:
    """Whether round two showed what it is to show: work was cut off, none of it lost, none run twice."""
    kept = crisper.lost == 0 and crisper.run_twice == 0
    return bool(crisper.interrupted) and kept and crisper.completed == crisper.tasks


def as_json(alone: Result, crisper: Result) -> dict[str, Any]:
    """The shape that docs/reference/json.md promises. `seconds_to_recover` has one figure, in seconds,
    for each task that was cut off and ran again, the fastest first."""
    return {
        "celery_alone": _counts(alone),
        "with_crisper": {
            **_counts(crisper),
            "recovered": len(crisper.ran_again),
            "seconds_to_recover": sorted(crisper.ran_again.values()),
        },
    }


def _counts(result: Result) -> dict[str, int]:
    return {
        "tasks": result.tasks,
        "completed": result.completed,
        "lost": result.lost,
        "run_twice": result.run_twice,
    }


def report(out: Console, alone: Result, crisper: Result) -> None:
    out.print()
    rows: list[tuple[str, object, object]] = [
        (label, getattr(alone, field), getattr(crisper, field))
        for label, field in (
            ("tasks", "tasks"),
            ("completed", "completed"),
            ("lost", "lost"),
            ("run twice", "run_twice"),
        )
    ]
    rows.append(("cut off by the kill", len(alone.interrupted), len(crisper.interrupted)))
    rows.append(("ran again after", _after(alone), _after(crisper)))
    columns = [Column(""), Column("Celery alone", right=True), Column("with Crisper", right=True)]
    table(out, columns, rows)
    out.print()
    lines(out, _about_alone(alone), _about_crisper(crisper))


def _after(result: Result) -> str:
    seconds = sorted(result.ran_again.values())
    if not seconds:
        return "never"
    first, last = f"{seconds[0]:.1f}", f"{seconds[-1]:.1f}"
    return f"{last} s" if first == last else f"{first} to {last} s"


def _about_alone(alone: Result) -> str:
    if not alone.lost:
        return "Celery alone lost nothing this time: that is luck, not a promise."
    return (
        f"Celery alone lost {plural(alone.lost, 'task')}, although they acknowledge late and reject on a"
        " lost worker: this broker, a folder, forgets what it has delivered. Redis would have held them"
        " back for an hour; RabbitMQ would have given them back; with early acknowledgement, Celery's"
        " default, nobody would."
    )


def _about_crisper(crisper: Result) -> str:
    if proven(crisper):
        back = plural(len(crisper.interrupted), "task")
        return f"With Crisper {back} came back; none was lost, none was completed twice."
    return (
        f"With Crisper {plural(crisper.lost, 'task')} of {crisper.tasks} did not end and"
        f" {crisper.run_twice} ran twice. That is a defect: please report it with what you see here."
    )
