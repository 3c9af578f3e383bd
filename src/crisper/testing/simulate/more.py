"""What two seeds of five have besides: checkpoints, and processes whose end goes unnoticed.

All of it is drawn from a generator of its own, and the other seeds have nothing of it: their histories are
the ones they have had before there was any.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from crisper.testing.simulate.plan import TASKS

FAULTS = ("lose_child_unnoticed", "lose_child_unnoticed", "hide_processes")


@dataclass(frozen=True, slots=True)
class More:
    """Drawn before the first event, as a plan is."""

    rng: Random
    saves: dict[str, bool]  # the tasks that keep checkpoints, and whether they wait for them to be safe
    faults: tuple[tuple[int, str], ...]


def draw_more(seed: int) -> More | None:
    if seed % 5 not in (0, 4):
        return None
    rng = Random(f"{seed} and more")
    saves = {f"task{n}": rng.random() < 0.5 for n in range(TASKS) if rng.random() < 0.6}
    count = rng.choice((0, 1, 2, 3))
    faults = sorted((rng.randrange(200, 11_000), rng.choice(FAULTS)) for _ in range(count))
    return More(rng, saves, tuple(faults))
