"""The benchmarks of speed and cost, one after the other; each is also a command of its own.

    python -m bench [--only WORD …] [--list]

Takes some two hours, and a machine that does nothing else. `--only`: those whose heading has such a word.
Ends with 1 if one of them failed.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
OURS = "--only 'Crisper, strict, PostgreSQL'"
FIGURES = {
    "The wire": "wire.py",
    "Throughput of no-op tasks, side by side": "side_by_side.py",
    "Throughput of tasks of 10 ms": f"side_by_side.py --seconds 0.01 --tasks 2000 {OURS}",
    "Throughput with 20 ms more for each commit": f"side_by_side.py --commit-ms 20 --tasks 2000 {OURS}",
    "Latency of one task on an idle worker": "latency.py",
    "Calls in the worker's parent": "guard.py",
    "Orders to stop that come too late": "stop_races.py",
    "Healthy workers that are called otherwise": "healthy_hour.py --seconds 300",
    "Saying how far a task is": "progress.py",
    "A claim and an outcome on their way into the registry": "recording.py",
    "What the recorder does": "recorder.py",
    "Publishing on record": "publishing.py",
    "Memory and connections": "memory.py",
    "SQLite with eight writers": "sqlite_contention.py",
    "An idle sweep beside much history": "idle_sweep.py",
    "Stale attempts, declared and closed": "stale_attempts.py --count 100000 --dead 100 --without-workers",
    "Stale attempts, recovered beside live workers": "stale_attempts.py",
    "Brought back, against published bare": "resending.py",
    "Ten thousand attempts, killed and running again": "ten_thousand_running.py",
    "Heartbeats of a thousand workers": "fleet.py",
    "Forgetting": "prune.py",
    "The dashboard beside much history": "dashboard.py",
    "One probe of a worker": "probe.py",
    "The tutorial in a new virtual environment": "newcomer.py",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD")
    parser.add_argument("--list", action="store_true", help="name them, with their commands")
    options = parser.parse_args()
    failed = []
    for heading, command in FIGURES.items():
        if not any(word.lower() in heading.lower() for word in options.only):
            continue
        print(f"\n## {heading}\n\n    python bench/{command}\n", flush=True)
        if options.list:
            continue
        script, *arguments = shlex.split(command)
        if subprocess.run([sys.executable, str(FOLDER / script), *arguments], check=False).returncode:
            failed.append(heading)
    for heading in failed:
        print(f"failed: {heading}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
