"""All checks, in the order in which people read them, and the pass over them."""

from __future__ import annotations

from collections.abc import Sequence

from crisper.engine.doctor import brokers, exposure, fleet, keeping, losses, rabbitmq, redis, timing
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
        "the registry is missing, older or newer", "`crisper -A proj migrate`",
    ),
    _trouble(
        "host", "this host cannot be looked at",
        "the journal's folder, or what it is on, cannot be looked at", "`crisper_journal_dir`",
    ),
)  # fmt: skip

CHECKS: tuple[Check, ...] = (
    *SOURCES,
    *losses.CHECKS,
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
