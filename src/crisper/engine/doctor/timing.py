"""Leases, pauses, clocks, and how long a worker has to end."""

from __future__ import annotations

from collections.abc import Sequence

from crisper.engine.doctor.facts import Facts
from crisper.engine.doctor.finding import Check, Level, Said
from crisper.engine.doctor.words import named, round_up, span, tasks

#: What a recorder's call to the registry may take before it has failed (`crisper.recorder.desk`).
CALL_SECONDS = 5.0
#: Of two clocks. People read them side by side, and ETAs are set by one host and kept by another.
OFFSET_SECONDS = 5.0
#: What Kubernetes gives a pod to end, if nobody says otherwise.
DEFAULT_GRACE = 30.0


def lease_short(facts: Facts) -> Sequence[Said]:
    settings = facts.settings
    trusted = settings.lease - 1.25 * settings.heartbeat_interval
    if trusted >= CALL_SECONDS:
        return []
    least = max(20.0, round(CALL_SECONDS + 1.25 * settings.heartbeat_interval + 5))
    why = (
        f"crisper_lease {span(settings.lease)} less a heartbeat and a quarter leaves"
        f" {span(max(trusted, 0))} of"
        f" trust, and one call to a slow registry may take {span(CALL_SECONDS)}: such a worker stops"
        " claiming."
    )
    return [Said("the lease is shorter than a slow call", why, f"app.conf.crisper_lease = {least:g}")]


def leases_differ(facts: Facts) -> Sequence[Said] | None:
    everybody = facts.registry.workers if facts.registry is not None else ()
    workers = [worker for worker in everybody if worker.app == facts.app.name]
    if not workers:
        return None
    other = [worker for worker in workers if abs(worker.lease - facts.settings.lease) > 0.001]
    if not other:
        return []
    why = (
        f"{named(f'{worker.hostname} has {span(worker.lease)}' for worker in other)}; the app's settings say"
        f" {span(facts.settings.lease)}."
    )
    return [Said("workers have another lease than the app", why, "restart them, all with the same settings")]


def pauses(facts: Facts) -> Sequence[Said] | None:
    if facts.registry is None or (not facts.registry.workers and not facts.registry.pauses):
        return None
    if not facts.registry.pauses:
        return []
    longest = max(facts.registry.pauses, key=lambda pause: pause.seconds)
    count = len(facts.registry.pauses)
    why = (
        f"{count} in the last week, for up to {span(longest.seconds)} ({longest.hostname}): suspended hosts,"
        " starved processes or cut networks. Each was declared lost, and what it ran was run again beside it."
    )
    fix = f"app.conf.crisper_lease = {max(20, round(longest.seconds * 1.5))}"
    return [Said("live workers were silent for longer than their lease", why, fix)]


def clock(facts: Facts) -> Sequence[Said] | None:
    offset = facts.registry.offset if facts.registry is not None else None
    if offset is None:
        return None
    if abs(offset) <= OFFSET_SECONDS:
        return []
    way = "ahead of" if offset > 0 else "behind"
    why = (
        f"the registry's is {span(abs(offset))} {way} this host's. Crisper judges nobody by clocks, but"
        " Celery does by ETA and expiry, and people by what they read."
    )
    return [Said("clocks differ", why, "timedatectl set-ntp true, on both hosts")]


def grace(facts: Facts) -> Sequence[Said] | None:
    if not facts.has_durations():
        return None
    told, soft = facts.host.grace, facts.app.soft_shutdown
    if told is None and soft > 0:
        return None
    limit = DEFAULT_GRACE if told is None else told
    if told is not None and soft > told:
        why = (
            f"worker_soft_shutdown_timeout is {span(soft)}, the grace period {span(told)}: the worker"
            " is killed"
            " before it has given back what it holds."
        )
        return [Said("a worker is killed in its soft shutdown", why, _grace(soft + 10))]
    known = {task.name: facts.takes(task) for task in facts.app.tasks}
    longer = {name: it for name, it in known.items() if it and it[0] > limit}
    if not longer:
        return []
    whose = f"the grace period is {span(limit)}"
    if told is None:
        whose = (
            f"Kubernetes kills a pod {span(limit)} after SIGTERM unless told otherwise. What is told"
            " cannot be"
            " seen from here: say it with --grace"
        )
    why = (
        f"{tasks(longer)}; {whose}. A deploy throws their work away; what was acknowledged early is not run"
        " again."
    )
    fix = _grace(round_up(max(seconds for seconds, _ in longer.values())))
    return [Said("deploys kill tasks that run", why, f"{fix}, or worker_soft_shutdown_timeout below it")]


def _grace(seconds: float) -> str:
    return f"terminationGracePeriodSeconds: {seconds:g} (systemd: TimeoutStopSec={seconds:g})"


CHECKS = (
    Check(
        "lease-short", Level.WARNING,
        "the lease, less a heartbeat and a quarter, is shorter than the 5 s that a call to the"
        " registry may take",
        "`crisper_lease = 20`", lease_short,
    ),
    Check(
        "leases-differ", Level.WARNING,
        "live workers have another lease than the app's settings say", "restart them", leases_differ,
    ),
    Check(
        "pauses", Level.WARNING,
        "in the last week workers were declared lost by silence, and their processes went on",
        "`crisper_lease` above the longest", pauses,
    ),
    Check(
        "clock", Level.WARNING,
        "the registry's clock and this host's differ by more than 5 s", "NTP on both", clock,
    ),
    Check(
        "grace", Level.WARNING,
        "tasks take longer than a worker has to end: by `--grace`, or, where nobody says and"
        " `worker_soft_shutdown_timeout` is not set, by Kubernetes' default of 30 s; or the soft"
        " shutdown does",
        "`terminationGracePeriodSeconds`, `worker_soft_shutdown_timeout`", grace,
    ),
)  # fmt: skip
