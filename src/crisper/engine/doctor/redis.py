"""Redis: to whom it gives messages, and when it forgets them."""

from __future__ import annotations

from collections.abc import Sequence

from crisper.engine.doctor.facts import Facts
from crisper.engine.doctor.finding import Check, Level, Said
from crisper.engine.doctor.words import round_up, span, tasks

#: What was read and not claimed when its worker died waits for the visibility timeout.
LONG_VISIBILITY = 6 * 3600.0


def visibility_plain(facts: Facts) -> Sequence[Said] | None:
    broker = facts.broker
    if broker is None or broker.visibility_timeout is None or facts.plain is None:
        return None
    held = facts.held()
    longer = {name: known for name, known in held.items() if known[0] > broker.visibility_timeout}
    if not longer:
        return [] if held else None
    why = (
        f"{tasks(longer)}; visibility_timeout is {span(broker.visibility_timeout)}, and {facts.plain}. Nobody"
        " renews what they hold, so Redis delivers it again while the first copy runs or waits."
    )
    enough = _visibility(facts, round_up(max(seconds for seconds, _ in longer.values())))
    fix = f"crisper.install(app) on every worker, or {enough}"
    return [Said("Redis gives messages to a second worker", why, fix)]


def visibility_short(facts: Facts) -> Sequence[Said] | None:
    broker = facts.broker
    if broker is None or broker.visibility_timeout is None or not facts.records:
        return None
    if broker.visibility_timeout >= facts.settings.lease:
        return []
    why = (
        f"visibility_timeout is {span(broker.visibility_timeout)}, the lease {span(facts.settings.lease)}."
        " A worker that stands still for less than its lease is alive, and Redis gives away what it holds:"
        " copies wait at the gate and take up other workers' prefetch."
    )
    return [Said("visibility_timeout is too short to be renewed in", why, _visibility(facts, 3600))]


def visibility_long(facts: Facts) -> Sequence[Said] | None:
    broker = facts.broker
    if broker is None or broker.visibility_timeout is None or facts.plain is not None:
        return None
    if facts.settings.track_publish != "off":
        return None
    if broker.visibility_timeout <= LONG_VISIBILITY:
        return []
    why = (
        "Workers renew what they hold, so no task needs it; but what a worker had read and not yet claimed"
        f" when it was killed waits for {span(broker.visibility_timeout)}."
    )
    return [Said("visibility_timeout is longer than it need be", why, _visibility(facts, 3600))]


def _visibility(facts: Facts, seconds: int) -> str:
    """The app's other options stay, and are not printed: a Sentinel's password is among them."""
    others = "**app.conf.broker_transport_options, " if facts.app.options_beside else ""
    return f'app.conf.broker_transport_options = {{{others}"visibility_timeout": {seconds}}}'


def evicts(facts: Facts) -> Sequence[Said] | None:
    broker = facts.broker
    if broker is None or broker.kind != "redis" or broker.eviction is None:
        return None
    if not broker.eviction.startswith("allkeys"):
        return []
    why = (
        f"maxmemory-policy is {broker.eviction}: when memory is short, Redis deletes queues and what is held."
    )
    return [Said("Redis may delete messages", why, "redis-cli CONFIG SET maxmemory-policy noeviction")]


CHECKS = (
    Check(
        "visibility-timeout", Level.ERROR,
        "Redis, workers without Crisper: a task may be held, or wait for its ETA, for longer than"
        " `visibility_timeout`. With Crisper what is held is renewed",
        "`visibility_timeout` above it, or Crisper on every worker", visibility_plain,
    ),
    Check(
        "visibility-timeout-short", Level.WARNING,
        "Redis: `visibility_timeout` is shorter than the lease, so a pause that harms nobody gives"
        " messages away",
        "`visibility_timeout = 3600`", visibility_short,
    ),
    Check(
        "visibility-timeout-long", Level.WARNING,
        "Redis: `visibility_timeout` over 6 hours, and publishes are not on record: what was read and not yet"
        " claimed waits so long",
        "`visibility_timeout = 3600`, or `crisper_track_publish`", visibility_long,
    ),
    Check(
        "redis-evicts", Level.ERROR,
        "Redis has a memory limit and a policy that deletes any key", "`maxmemory-policy noeviction`", evicts,
    ),
)  # fmt: skip
