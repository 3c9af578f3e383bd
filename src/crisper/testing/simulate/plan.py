"""What one seed means: the kind of broker, the tasks, the chances, and the faults with their times.

Each seed draws which kinds of faults it has at all, so that some schedules are all about one of them and
some have everything at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from crisper.core.states import OnLost
from crisper.settings import Settings
from crisper.testing.simulate.broker import Task

#: Seconds: a fifth of the defaults' lease, in the same proportions, so that the writer's and courier's own
#: waits (a quarter of a second, seconds) keep theirs.
SETTINGS = Settings(
    registry_url="sqlite:////simulated",
    journal_dir="/simulated",
    lease=4.0,
    heartbeat_interval=0.8,
    sweep_interval=0.8,
    redelivery_grace=3.0,
    recovery_rate=1_000_000,
)
WORKERS, SWEEPERS, TASKS = 3, 2, 10
#: Everything is healed then; faults begin before, and tasks are published from the start on.
HEAL_MS, PUBLISH_MS = 13_000, 6_000

FAULTS = (
    "kill_parent", "kill_parent", "kill_recorder", "kill_both", "lose_host", "pause_parent", "pause_recorder",
    "pause_host", "cut_registry", "registry_outage", "clock_step", "broker_outage", "cut_connection",
    "cut_connection", "kill_child", "warm_stop", "cold_stop", "duplicate", "pause_sweeper", "mass_silence",
    "cut_off", "cut_off",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is drawn before the first event."""

    broker: str
    visibility_ms: int
    journal: bool
    rates: tuple[float, ...]  # of the hosts' clocks
    tasks: tuple[tuple[int, Task], ...]  # with the time of their publishing
    faults: tuple[tuple[int, str], ...]
    crash_at_step: float
    unknown: float  # of a call to the registry: its reply is lost
    refused: float  # it fails, and changes nothing
    slow: float
    pauses: float  # of couriers and sweepers, between two steps
    publish_trouble: float


def draw(rng: Random) -> Plan:
    kinds = rng.sample(FAULTS, rng.randrange(2, len(FAULTS)))
    calls = rng.choice((0.0, 0.004, 0.02))
    return Plan(
        broker=rng.choice(("redis", "amqp")),
        visibility_ms=rng.choice((2_500, 6_000, 60_000)),
        journal=rng.random() < 0.7,
        rates=tuple(rng.uniform(0.94, 1.06) for _ in range(WORKERS + 1)),
        tasks=tuple(sorted((rng.randrange(PUBLISH_MS), _task(n, rng)) for n in range(TASKS))),
        faults=tuple(
            sorted((rng.randrange(200, 11_000), rng.choice(kinds)) for _ in range(rng.randrange(2, 9)))
        ),
        crash_at_step=rng.choice((0.0, 0.001, 0.004)),
        unknown=calls * rng.random(),
        refused=calls * rng.random(),
        slow=rng.choice((0.0, 0.01, 0.08)),
        pauses=rng.choice((0.0, 0.05, 0.3)),
        publish_trouble=rng.choice((0.0, 0.2)),
    )


def _task(n: int, rng: Random) -> Task:
    acks_late = rng.random() < 0.65
    policy = OnLost.RESEND if acks_late else OnLost.FAIL
    if rng.random() < 0.25:
        policy = rng.choice(tuple(OnLost))
    return Task(
        id=f"task{n}",
        acks_late=acks_late,
        on_lost=policy,
        loss_budget=rng.randrange(4),
        kept=rng.random() < 0.9,
        fails=rng.random() < 0.15,
        retries=rng.choice((0, 0, 0, 1, 2)),
        poison=rng.choice((0, 0, 0, 0, 0, 1, 2, 9)),
        runtime=rng.choice((5, 40, 300, 1_000, 3_000, 6_000)),
    )
