"""Who works and publishes, with which versions, over how many connections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from crisper.engine.doctor.facts import Facts
from crisper.engine.doctor.finding import Check, Level, Said
from crisper.engine.doctor.words import named, plural, tasks, version

#: Connections. A worker's recorder has two; `crisper serve` one for each question at once
#: (`crisper.faces.serve.web`), one for its sweeper, its alerts and a decision each; a person's command two.
OF_A_WORKER, OF_SERVE, OF_A_PERSON = 2, 8 + 3, 2
BESIDE_THEM = OF_SERVE + OF_A_PERSON

CELERY = (5, 5), (5, 8)  # from, and before
PYTHON = (3, 11), (3, 15)
REGISTRIES = {"postgresql": ("PostgreSQL", (13,)), "mariadb": ("MariaDB", (10, 6))}


def blind_workers(facts: Facts) -> Sequence[Said] | None:
    if not facts.records or facts.blind is None or not facts.broker or not facts.broker.nodes:
        return None
    if not facts.blind:
        return []
    why = f"{named(facts.blind)}: at the broker, and not on record. Nobody brings back what dies with them."
    return [Said("workers without Crisper", why, "crisper.install(app) in their app, then restart them")]


def blind_publishers(facts: Facts) -> Sequence[Said] | None:
    registry = facts.registry
    if registry is None or not registry.received:
        return None
    if not registry.unnamed:
        return []
    why = (
        f"{registry.unnamed} of the newest {registry.received} messages bear no message id. Copies of"
        " them are"
        " told by their content, and what vanishes before a worker has it is never missed."
    )
    return [Said("publishers without Crisper", why, "crisper.install(app) in the app that publishes")]


def versions(facts: Facts) -> Sequence[Said] | None:
    said = list(_here(facts)) + list(_elsewhere(facts))
    if facts.registry is not None and facts.registry.version:
        said += _registry(facts.registry.database, facts.registry.version)
    return said


def _here(facts: Facts) -> Iterator[Said]:
    for what, found, (least, below) in (
        ("Celery", facts.app.celery, CELERY),
        ("Python", facts.app.python, PYTHON),
    ):
        if not least <= found[:2] < below:
            yield _outside(what, version(found), version(least), version(below))


def _elsewhere(facts: Facts) -> Iterator[Said]:
    least, below = CELERY
    found = Counter(w.celery for w in (facts.registry.workers if facts.registry else ()) if w.celery)
    for celery, count in sorted(found.items()):
        if not least <= _parsed(celery) < below:
            yield _outside(
                f"Celery of {plural(count, 'live worker')}", celery, version(least), version(below)
            )


def _outside(what: str, found: str, least: str, below: str) -> Said:
    why = f"Crisper is made for {least} and newer, before {below}: it hooks into parts that change."
    fix = f"pip install '{what.split()[0].lower()}>={least},<{below}'"
    return Said(f"{what} is {found}", why, fix if what != "Python" else f"Python {least} or newer")


def _registry(database: str, found: tuple[int, ...]) -> list[Said]:
    if database not in REGISTRIES:
        if database == "sqlite":
            return []
        why = "it speaks MariaDB's protocol, and Crisper is not tested on it."
        return [Said("the registry is no MariaDB", why, "PostgreSQL 13 or MariaDB 10.6, or newer")]
    name, least = REGISTRIES[database]
    if found >= least:
        return []
    why = f"Crisper needs {name} {version(least)} or newer."
    title = f"the registry is {name} {version(found)}"
    return [Said(title, why, f"upgrade it to {name} {version(least)} or newer")]


def _parsed(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def mixed_versions(facts: Facts) -> Sequence[Said] | None:
    workers = facts.registry.workers if facts.registry is not None else ()
    found = Counter(worker.crisper for worker in workers if worker.crisper)
    if not found:
        return None
    if len(found) == 1:
        return []
    told = ", ".join(f"{count} with {crisper}" for crisper, count in sorted(found.items()))
    why = f"live workers: {told}. That is well while an upgrade rolls, and only then."
    return [Said("workers of several versions of Crisper", why, "restart those that have the older one")]


def connections(facts: Facts) -> Sequence[Said] | None:
    registry = facts.registry
    if registry is None or registry.connections is None:
        return None
    workers, (most, others) = len(registry.workers), _counted(facts)
    need = OF_A_WORKER * workers + BESIDE_THEM
    if need + others <= most:
        return []
    why = (
        f"{plural(workers, 'worker')} x {OF_A_WORKER} + {OF_SERVE} for serve + {OF_A_PERSON} for people are"
        f" {need}; others have {others} of the {most} that the server gives. A worker that gets none works by"
        " its journal."
    )
    return [Said("the registry has too few connections", why, f"max_connections = {_enough(need + others)}")]


def deploys(facts: Facts) -> Sequence[Said] | None:
    registry = facts.registry
    if registry is None or registry.connections is None or connections(facts):
        return None
    workers, (most, others) = len(registry.workers), _counted(facts)
    need = 2 * OF_A_WORKER * workers + BESIDE_THEM
    if need + others <= most:
        return []
    why = (
        f"{workers} new workers that start before the old ones end need {need}; others have {others} of the"
        f" {most} that the server gives. Those that get none work by their journals meanwhile."
    )
    title = "the registry has too few connections for a rolling deploy"
    return [Said(title, why, f"max_connections = {_enough(need + others)}")]


def _counted(facts: Facts) -> tuple[int, int]:
    assert facts.registry is not None
    assert facts.registry.connections is not None
    return facts.registry.connections.most, facts.registry.connections.others


def _enough(need: int) -> int:
    """With what the server keeps for its superusers, and a quarter to spare."""
    return -(-(need * 5 // 4 + 10) // 50) * 50


def prefetch(facts: Facts) -> Sequence[Said] | None:
    if not facts.has_durations():
        return None
    long = {task.name: takes for task, takes in facts.long_tasks().items()}
    if not long or facts.app.disables_prefetch or facts.app.prefetch_multiplier == 1:
        return []
    each = facts.app.prefetch_multiplier or "any number of"
    why = (
        f"{tasks(long)}, and worker_prefetch_multiplier is {facts.app.prefetch_multiplier}: each process has"
        f" {each} messages waiting behind the one that it runs, while others may be idle."
    )
    return [Said("messages wait behind long tasks", why, "app.conf.worker_prefetch_multiplier = 1")]


CHECKS = (
    Check(
        "workers-without-crisper", Level.WARNING,
        "nodes that answer at the broker and are not on record", "`crisper.install(app)` there",
        blind_workers,
    ),
    Check(
        "publishers-without-crisper", Level.WARNING,
        "messages of the last day without a message id", "`crisper.install(app)` where they are published",
        blind_publishers,
    ),
    Check(
        "versions", Level.WARNING,
        "Celery, Python or the registry's server is outside of what Crisper supports: Celery 5.5 to 5.7,"
        " Python 3.11 to 3.14, PostgreSQL 13, MariaDB 10.6",
        "the version that it names", versions,
    ),
    Check(
        "versions-mixed", Level.WARNING,
        "live workers with several versions of Crisper", "restart those with the older one", mixed_versions,
    ),
    Check(
        "connections", Level.ERROR,
        "live workers x 2 + 13 (`crisper serve` has up to 11, a person's command 2) and what others have are"
        " more than the registry's server gives",
        "`max_connections`", connections,
    ),
    Check(
        "connections-deploy", Level.WARNING,
        "the same, while a deploy has twice as many workers", "`max_connections`", deploys,
    ),
    Check(
        "prefetch", Level.WARNING,
        "a task that takes a minute or more, by its history or its own time limit, and a prefetch multiplier"
        " other than 1",
        "`worker_prefetch_multiplier = 1`", prefetch,
    ),
)  # fmt: skip
