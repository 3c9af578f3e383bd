"""One schedule, from its seed to its verdict."""

from __future__ import annotations

import logging
from collections import Counter
from typing import NamedTuple

from crisper.testing.simulate import truths
from crisper.testing.simulate.broker import Away, Broker, Message, Task
from crisper.testing.simulate.faults import Faults
from crisper.testing.simulate.history import History
from crisper.testing.simulate.life import Node, Site
from crisper.testing.simulate.place import Host
from crisper.testing.simulate.plan import HEAL_MS, PUBLISH_MS, SWEEPERS, WORKERS, Plan, draw
from crisper.testing.simulate.registry import Registry
from crisper.testing.simulate.sweepers import Standing
from crisper.testing.simulate.world import World

#: Milliseconds after everything is healed, within which all must be over.
QUIET_MS, LOOK_MS = 120_000, 400


class Outcome(NamedTuple):
    """What became of one seed."""

    seed: int
    events: int
    bodies: int
    ms: int  # of virtual time
    sometimes: Counter[str]
    violations: list[str]


def simulate(seed: int) -> tuple[Outcome, History]:
    """Run the schedule of this seed. The same seed has the same history, always."""
    logging.getLogger("crisper").setLevel(logging.CRITICAL)
    world = World(seed)
    plan = draw(world.rng)
    site = _site(world, plan)
    sweepers = _sweepers(site)
    faults = Faults(site, sweepers)
    world.crash_at_step = plan.crash_at_step
    for at, task in plan.tasks:
        world.after(at, None, _publish, site, task)
    for at, kind in plan.faults:
        world.after(at, None, faults.strike, kind)
    more = site.more.faults if site.more else ()
    for at, kind in more:
        world.after(at, None, faults.strike, kind)
    last = max([PUBLISH_MS, *(at + 1_500 for at, _ in (*plan.faults, *more))])
    world.run(min(HEAL_MS, last))
    faults.heal()
    _until_quiet(site)
    history = world.history
    bodies = sum(map(len, history.bodies.values()))
    events = len(history.happenings)
    outcome = Outcome(seed, events, bodies, world.now, history.sometimes, history.violations)
    world.over = True
    return outcome, history


def _site(world: World, plan: Plan) -> Site:
    registry = Registry(world)
    site = Site(world, plan, registry, Broker(world, plan.broker, plan.visibility_ms))
    torn = world.rng.choice((0.0, 0.0, 0.03))
    for number in range(WORKERS):
        host = Host(world, f"host{number + 1}", plan.rates[number])
        host.torn = torn
        node = Node(site, f"worker{number + 1}", host)
        site.nodes.append(node)
        world.after(world.rng.randrange(100), None, node.start)
    world.history.tell("plan", "is", broker=plan.broker, visibility=plan.visibility_ms, journal=plan.journal,
                       crash_at_step=plan.crash_at_step)  # fmt: skip
    return site


def _sweepers(site: Site) -> list[Standing]:
    other = Host(site.world, "host4", site.plan.rates[-1])
    hosts = [site.nodes[0].host, other]
    return [Standing(site, f"sweeper{n + 1}", hosts[n % 2], carries=bool(n % 2)) for n in range(SWEEPERS)]


def _publish(site: Site, task: Task) -> None:
    try:
        site.broker.publish(Message(task, 0), "a publisher")
    except Away:
        site.world.after(300, None, _publish, site, task)


def _until_quiet(site: Site) -> None:
    world = site.world
    give_up = world.now + QUIET_MS
    while not world.over:
        world.run(world.now + LOOK_MS)
        left = truths.unfinished(site)
        first = next(left, None)
        if first is None:
            truths.final(site)
            return
        if world.now > give_up and not world.over:
            world.history.broken("conservation", "; ".join([first, *left]))
