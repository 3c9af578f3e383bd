"""The command line: seeds in, a summary out, and the story of what broke."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TextIO

from crisper.testing.simulate.history import History
from crisper.testing.simulate.run import Outcome, simulate

#: Stories printed at most; the rest of the failing seeds is only named.
STORIES = 3
CHUNK = 50


class Summary:
    """Adds up outcomes."""

    def __init__(self) -> None:
        self.schedules = self.events = self.bodies = self.ms = 0
        self.sometimes: Counter[str] = Counter()
        self.failed: list[Outcome] = []
        self.least = sys.maxsize

    def add(self, outcome: Outcome) -> None:
        self.schedules += 1
        self.events += outcome.events
        self.bodies += outcome.bodies
        self.ms += outcome.ms
        self.least = min(self.least, outcome.events)
        self.sometimes.update(outcome.sometimes)
        if outcome.violations:
            self.failed.append(outcome)

    def lines(self, seconds: float) -> Iterator[str]:
        n = max(1, self.schedules)
        yield f"schedules    {self.schedules}"
        yield f"events       {self.events}"
        each = f"{self.events / n:.1f} events, {self.least} at least; {self.bodies / n:.1f} bodies"
        yield f"per schedule {each}"
        yield f"virtual time {self.ms / 3_600_000:.1f} h, {self.ms / n / 1000:.1f} s per schedule"
        yield f"seeds per s  {self.schedules / max(seconds, 1e-9):.1f}, in {seconds:.1f} s"
        yield "sometimes"
        for what, times in sorted(self.sometimes.items()):
            yield f"  {times:>9}  {what}"
        yield f"violations   {len(self.failed)}"


def outcomes(seeds: Iterable[int], jobs: int) -> Iterator[Outcome]:
    """In the seeds' order; in processes of their own where there are several jobs."""
    if jobs == 1:
        yield from map(_outcome, seeds)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:  # no fork beside threads
        yield from pool.map(_outcome, seeds, chunksize=CHUNK)


def _outcome(seed: int) -> Outcome:
    return simulate(seed)[0]


def story(outcome: Outcome, history: History) -> Iterator[str]:
    """What happened, one line per event: virtual time, actor, sentence."""
    yield f"seed {outcome.seed}"
    yield from (happening.sentence() for happening in history.happenings)
    for violation in outcome.violations:
        yield f"VIOLATION {violation}"
    yield f"replay: python -m crisper.testing.simulate --seed {outcome.seed} --story"


def main(arguments: list[str] | None = None, out: TextIO | None = None) -> int:
    """The exit code: 1 if a law was broken."""
    out = out or sys.stdout
    parser = argparse.ArgumentParser(prog="python -m crisper.testing.simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many schedules")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--story", action="store_true", help="tell it, event by event")
    parser.add_argument("--json", action="store_true", help="tell it as lines of JSON")
    parser.add_argument("--stop", action="store_true", help="end with the first violation")
    asked = parser.parse_args(arguments)
    if asked.seed is not None and (asked.story or asked.json):
        return _tell(asked.seed, asked.json, out)
    one = asked.seed is not None
    first, count = (asked.seed, 1) if one else (asked.first, asked.seeds)
    return _run(range(first, first + count), asked.jobs, asked.stop, out)


def _tell(seed: int, as_json: bool, out: TextIO) -> int:
    outcome, history = simulate(seed)
    lines = (h.as_json() for h in history.happenings) if as_json else story(outcome, history)
    for line in lines:
        print(line, file=out)
    return 1 if outcome.violations else 0


def _run(seeds: range, jobs: int, stop: bool, out: TextIO) -> int:
    summary, began, shown = Summary(), time.monotonic(), time.monotonic()
    for outcome in outcomes(seeds, jobs):
        summary.add(outcome)
        now = time.monotonic()
        if now - shown > 5:
            shown = now
            rate = summary.schedules / (now - began)
            print(f"… {summary.schedules} of {len(seeds)} schedules, {rate:.0f} per s,"
                  f" {len(summary.failed)} violations", file=sys.stderr, flush=True)  # fmt: skip
        if stop and summary.failed:
            break
    for outcome in summary.failed[:STORIES]:
        for line in story(*simulate(outcome.seed)):
            print(line, file=out)
        print(file=out)
    for outcome in summary.failed[STORIES:]:
        print(f"seed {outcome.seed}: {outcome.violations[0]}", file=out)
    for line in summary.lines(time.monotonic() - began):
        print(line, file=out)
    return 1 if summary.failed else 0
