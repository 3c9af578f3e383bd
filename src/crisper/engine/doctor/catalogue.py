"""All checks, in the order in which people read them, and the pass over them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crisper.engine.doctor import (
    brokers,
    exposure,
    fleet,
    keeping,
    losses,
    rabbitmq,
    redis,
    resending,
    timing,
)
from crisper.engine.doctor.facts import Facts
from crisper.engine.doctor.finding import Check, Finding, Level, Said

_ORDER = (Level.ERROR, Level.WARNING, Level.OK)


def _trouble(source: str, title: str, what: str, cure: str) -> Check:
    def look(facts: Facts) -> Sequence[Said] | None:
        return [Said(title, one.why, one.fix) for one in facts.troubles if one.source == source] or None

    return Check(source, Level.ERROR, what, cure, look)


SOURCES = (
    _trouble(
        "broker", "the broker cannot be asked",
        "the broker did not answer in time; what depends on it was not looked at",
        "`broker_url`, and its server",
    ),
    _trouble(
        "management", "RabbitMQ's management API cannot be asked",
        "`crisper_rabbitmq_management_url` is set and gives no answer",
        "that setting, its user, and that user's tag",
    ),
    _trouble(
        "registry", "the registry cannot be asked",
        "the registry did not answer in time; what depends on it was not looked at",
        "`crisper_registry_url`, and its server",
    ),
    _trouble(
        "schema", "the registry has another schema than this Crisper needs",
        "the registry is missing on its server, or older or newer", "`crisper -A proj migrate`",
    ),
    _trouble(
        "host", "this host cannot be looked at",
        "the journal's folder, or what it is on, cannot be looked at", "`crisper_journal_dir`",
    ),
)  # fmt: skip


def _unmade(facts: Facts) -> Sequence[Said] | None:
    if facts.to_be is None:
        return None
    if facts.to_be.writable:
        return []
    path = Path(facts.to_be.path)
    why = f"{path} is not made yet, and this user may not write there: no worker of theirs can make it."
    fix = f'let the workers\' user write {path.parent}, or app.conf.crisper_registry_url = "…"'
    return [Said("the registry's folder cannot be written", why, fix)]


UNMADE = Check(
    "registry-folder",
    Level.ERROR,
    "the registry is a SQLite file that no worker has made yet, and none can",
    "the folder's owner and mode, or `crisper_registry_url`",
    _unmade,
)

CHECKS: tuple[Check, ...] = (
    *SOURCES,
    UNMADE,
    *losses.CHECKS,
    *resending.CHECKS,
    *brokers.CHECKS,
    *redis.CHECKS,
    *rabbitmq.CHECKS,
    *fleet.CHECKS,
    *timing.CHECKS,
    *keeping.CHECKS,
    *exposure.CHECKS,
)


def examine(facts: Facts) -> list[Finding]:
    """Every hazard that there is evidence of, the worst first; `ok` where the evidence speaks against it."""
    found: list[Finding] = []
    for check in CHECKS:
        said = check.look(facts)
        if said is None:
            continue
        found += [Finding(check.id, check.level, *one) for one in said]
        if not said:
            found.append(Finding(check.id, Level.OK, f"looked for, and not so: {check.what}", "", ""))
    return sorted(found, key=lambda finding: _ORDER.index(finding.level))
