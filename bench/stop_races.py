"""Orders to end an attempt, each at about the moment when its body ends: who was ended, and who was not.

    python bench/stop_races.py [--races 1000] [--pool prefork|gevent|threads]

One worker on a Redis of its own. Short tasks are ordered to stop at a random moment around their
ends, while others run in the same processes before and behind them; nobody orders those. An order goes the
way that every order goes: registry, recorder, parent, process. Prints how the ordered ones ended, and how
many of the others were harmed. Ends with 1 if any was.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.fleet import Fleet, wait_for
from tests.servers import PrivateRedis

#: How long each body takes, in seconds: about as long as an order is on its way.
BODY = 0.08
PROCESSES = 4


class Told(NamedTuple):
    ordered: Counter[str]  # how those that were ordered to stop ended
    others: int
    harmed: list[str]  # of the others, those that did not end as if nothing had been ordered


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--races", type=int, default=1000)
    parser.add_argument("--pool", default="prefork", choices=["prefork", "gevent", "threads"])
    options = parser.parse_args()
    with PrivateRedis() as server, tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(
            Path(folder), broker=server.url, backend=server.url.removesuffix("/0") + "/1",
            sweep_interval=0.05, heartbeat_interval=0.3, lease=3, recording="relaxed",
        )  # fmt: skip
        try:
            fleet.worker("racer", "-P", options.pool, "-c", str(PROCESSES), "-l", "WARNING", wait=False)
            wait_for("answers", lambda: fleet.app.control.ping(timeout=1), 30)
            told = race(fleet, options.races, task_for(options.pool))
        finally:
            fleet.close()
    for how, count in sorted(told.ordered.items()):
        print(f"ordered to stop, and {how:<22} {count:>6}")
    print(f"others, in the same workers {told.others:>18}")
    print(f"others that were harmed       {len(told.harmed):>18}")
    return 1 if told.harmed else 0


def task_for(pool: str) -> str:
    """Of a thread only a task that asks for it can be stopped."""
    return "soft" if pool == "threads" else "late"


def race(
    fleet: Fleet, races: int, task: str = "late", progress: Callable[[int], None] = lambda done: None
) -> Told:
    """So many orders, a handful at a time: in each process to the second of three tasks."""
    ordered, others = [], []
    with fleet.store() as store:
        for done in range(0, races, PROCESSES):
            sent = [fleet.send(task, n, BODY) for n in range(3 * PROCESSES)]
            victims = sent[PROCESSES : 2 * PROCESSES]
            time.sleep(random.uniform(0.6, 2.4) * BODY)
            for victim in victims:
                store.stop(victim.id, by="race", reason="a race")
            ordered += [one.id for one in victims]
            others += [one.id for one in (*sent[:PROCESSES], *sent[2 * PROCESSES :])]
            wait_for("the last is over", lambda sent=sent: _over(fleet, sent[-1].id), 30)
            progress(done)
        wait_for("all are on record", lambda: fleet.open_attempts() == 0, 60)
    states = dict(fleet.rows("SELECT task_id, state FROM crisper_attempt WHERE number = 1"))
    twice = {str(id) for (id,) in fleet.rows("SELECT task_id FROM crisper_attempt WHERE number > 1")}
    ended = {line.task_id for line in fleet.ends()}
    harmed = [id for id in others if states.get(id) != "succeeded" or id in twice or id not in ended]
    return Told(Counter(str(states.get(id)) for id in ordered), len(others), harmed)


def _over(fleet: Fleet, task_id: str) -> bool:
    return fleet.attempts(task_id)[-1:] in ([(1, "succeeded")], [(1, "revoked")])


if __name__ == "__main__":
    sys.exit(main())
