"""What a dead worker costs: tasks that do not come back, come back without end, or leave callers waiting."""

from __future__ import annotations

from collections.abc import Sequence

from crisper.engine.doctor.facts import Facts
from crisper.engine.doctor.finding import Check, Level, Said
from crisper.engine.doctor.words import named, tasks

#: A budget beyond this limits nothing that anybody would wait for.
MANY_LOSSES = 100


def no_record(facts: Facts) -> Sequence[Said]:
    if facts.records:
        return []
    if not facts.app.installed:
        why, fix = "the app does not call crisper.install(app)", "crisper.install(app)"
    else:
        why, fix = "crisper_enabled is off", "app.conf.crisper_enabled = True"
    return [Said("this app's workers keep no record", f"{why}, so nothing that they lose comes back.", fix)]


def early_acks(facts: Facts) -> Sequence[Said] | None:
    if not facts.has_durations():
        return None
    long = {
        task.name: takes
        for task, takes in facts.long_tasks().items()
        if not task.acks_late and (task.on_lost is None or not facts.records)
    }
    if not long:
        return []
    fate = "fail with TaskLost, and wait for crisper recover" if facts.records else "are gone"
    why = (
        f"{tasks(long)}. Acknowledged before they run, they are not run again when their worker dies: they"
        f" {fate}."
    )
    fix = '@app.task(acks_late=True) if it may run twice, else @app.task(crisper={"on_lost": "fail"})'
    return [Said("long tasks are acknowledged before they run", why, fix)]


def unlimited_requeue(facts: Facts) -> Sequence[Said] | None:
    requeued = [task for task in facts.app.tasks if task.acks_late and task.reject_on_worker_lost]
    if not requeued:
        return None
    if facts.plain is not None:
        why = (
            f"{named(task.name for task in requeued)}: reject_on_worker_lost, and {facts.plain}. Celery"
            " requeues without end what kills its process."
        )
        fix = "crisper.install(app) on every worker, or @app.task(reject_on_worker_lost=False)"
        return [Said("tasks that kill their worker are requeued without end", why, fix)]
    boundless = [task for task in requeued if task.loss_budget > MANY_LOSSES]
    if not boundless:
        return []
    budget = max(task.loss_budget for task in boundless)
    why = f"{named(task.name for task in boundless)} may be lost {budget:,} times before quarantine."
    title = "tasks that kill their worker are requeued nearly without end"
    return [Said(title, why, "app.conf.crisper_loss_budget = 3")]


def ignored_results(facts: Facts) -> Sequence[Said] | None:
    members = set(facts.registry.chord_members) if facts.registry is not None else set()
    ignored = {task.name for task in facts.app.tasks if task.ignore_result}
    makers = [task for task in facts.app.tasks if task.makes_chords_of]
    for task in makers:  # which of them are members and which the body, the code does not tell
        if ignored.issuperset(task.makes_chords_of):
            members.update(task.makes_chords_of)
    if not members and not makers:
        return None
    fix = '@app.task(ignore_result=False), or app.conf.result_backend = "redis://…"'
    if facts.app.no_chords is not None:
        who = named(sorted(members) or [task.name for task in makers])
        why = f"{who}: a chord counts its members in the result backend, and {facts.app.no_chords}."
        return [Said("a chord has no result backend", why, 'app.conf.result_backend = "redis://…"')]
    waiting = sorted(members & ignored)
    if not waiting or facts.app.backend_counts_ignored:
        return []
    why = (
        f"{named(waiting)}: ignore_result, and in a chord. This result backend counts results that"
        " are stored,"
        " so the chord's body never runs."
    )
    return [Said("a chord waits for results that are ignored", why, fix)]


CHECKS = (
    Check(
        "no-record",
        Level.ERROR,
        "the app does not call `crisper.install(app)`, or `crisper_enabled` is off",
        "`crisper.install(app)`, `crisper_enabled = True`",
        no_record,
    ),
    Check(
        "early-acks",
        Level.WARNING,
        "a task that takes a minute or more, by its history or its own time limit, is acknowledged before it"
        " runs, and nobody has said what a loss of it means",
        "`acks_late=True`, or `crisper={\"on_lost\": …}`",
        early_acks,
    ),
    Check(
        "unlimited-requeue",
        Level.ERROR,
        "`reject_on_worker_lost` where nobody limits losses: workers without Crisper, or a loss"
        " budget above 100",
        "install Crisper there; `crisper_loss_budget = 3`",
        unlimited_requeue,
    ),
    Check(
        "ignored-results",
        Level.ERROR,
        "a chord without a result backend (`rpc://` takes none), or with members that ignore their results on"
        " a backend that counts stored results (all but Redis)",
        "`result_backend`, `ignore_result=False`",
        ignored_results,
    ),
)  # fmt: skip
