"""Which broker it is."""

from __future__ import annotations

from collections.abc import Sequence

from crisper.engine.doctor.facts import Facts
from crisper.engine.doctor.finding import Check, Level, Said
from crisper.engine.doctor.words import version

#: What Crisper's own tests run on; older ones are nobody's experience.
TESTED_FROM = {"redis": (7, 0), "amqp": (3, 10)}
_NAMES = {"redis": "Redis", "amqp": "RabbitMQ"}


def unsupported(facts: Facts) -> Sequence[Said] | None:
    if facts.broker is None:
        return None
    if facts.broker.supported:
        return []
    why = (
        "Crisper knows Redis, RabbitMQ and kombu's filesystem transport; of others it cannot tell what"
        " they hold."
    )
    fix = 'app.conf.broker_url = "redis://…" or "amqp://…"'
    return [Said(f"the broker is one that Crisper does not know: {facts.broker.kind}", why, fix)]


def too_old(facts: Facts) -> Sequence[Said] | None:
    broker = facts.broker
    if broker is None or not broker.version or broker.kind not in TESTED_FROM:
        return None
    least, name = TESTED_FROM[broker.kind], _NAMES[broker.kind]
    if broker.version >= least:
        return []
    why = f"the oldest that Crisper is tested on is {name} {version(least)}."
    title = f"the broker is {name} {version(broker.version)}"
    return [Said(title, why, f"upgrade it to {name} {version(least)} or newer")]


CHECKS = (
    Check(
        "broker-unsupported", Level.WARNING,
        "a broker that Crisper does not know", "Redis or RabbitMQ", unsupported,
    ),
    Check(
        "broker-version", Level.WARNING,
        "a broker older than what Crisper is tested on: Redis 7.0, RabbitMQ 3.10", "upgrade it", too_old,
    ),
)  # fmt: skip
