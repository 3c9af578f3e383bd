"""Forgetting: how fast a pass forgets tasks that are over, and how long one of its batches takes.

    python bench/prune.py [--tasks 100000] [--registry URL]

The registry (an empty one; default: a PostgreSQL of its own) gets that many finished tasks of one worker, and
one in a hundred that is still open and stays. A sweep forgets one batch at most.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crisper.core.states import State
from crisper.engine.pruner import BATCH
from crisper.store.base import START, Old
from crisper.store.migrate import upgrade
from crisper.store.open import open_store
from tests.servers import PrivatePostgres
from tests.store.acting import Actor, start

LATER = Old(2**53, 2**53, 2**53)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--registry", default="")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        url = options.registry or stack.enter_context(PrivatePostgres()).url
        upgrade(url)
        store = open_store(url)
        fill(Actor(store), options.tasks)
        took, forgot, after = [], 0, START
        while True:
            at = time.perf_counter()
            pruned = store.prune_tasks(LATER, after, limit=BATCH)
            took.append(time.perf_counter() - at)
            forgot += pruned.tasks
            if pruned.mark is None:
                break
            after = pruned.mark
        store.close()
    took.sort()
    print(f"tasks forgotten, of so many      {forgot}, {options.tasks}")
    print(f"per second                       {forgot / sum(took):.0f}")
    print(f"a batch of {BATCH}, p50 and p99      {took[len(took) // 2] * 1000:.1f},"
          f" {took[int(len(took) * 0.99)] * 1000:.1f} ms")  # fmt: skip
    return 0


def fill(worker: Actor, tasks: int) -> None:
    for first in range(0, tasks, BATCH):
        claims = [worker.wants(f"task-{n}", f"m-{n}") for n in range(first, min(first + BATCH, tasks))]
        over = [claim for n, claim in enumerate(claims) if n % 100]
        worker.record(*claims, *[start(claim, 0) for claim in claims])
        worker.record(*[worker.finish(claim, State.SUCCEEDED, runtime_ms=5) for claim in over])


if __name__ == "__main__":
    sys.exit(main())
