"""What one `crisper-probe` costs, beside an interpreter that does nothing, in alternation.

python bench/probe.py [--count 100]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from crisper.engine import sign
from crisper.engine.sign import Sign
from crisper.recorder.witness import pid_namespace, process_start


def milliseconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100)
    count = parser.parse_args().count
    probe = str(Path(sys.executable).with_name("crisper-probe"))
    with tempfile.TemporaryDirectory() as folder:
        pid, now = os.getpid(), sign.now_ms()
        here = Sign("celery@here", pid, process_start(pid) or 0, pid_namespace(), now, now, now,
                    records="registry", consumes=True)  # fmt: skip
        sign.write(folder, "one", here)
        commands = {
            "crisper-probe ready": [probe, "ready", "--dir", folder, "--within", "86400"],
            "python -c pass": [sys.executable, "-c", "pass"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(count):
            here.at = here.turned = here.ticked = sign.now_ms()
            sign.write(folder, "one", here)
            for name, command in commands.items():
                times[name].append(milliseconds(command))
    print("| command | median ms | p95 ms |\n|---|---|---|")
    for name, some in times.items():
        print(f"| `{name}` | {statistics.median(some):.1f} | {statistics.quantiles(some, n=20)[-1]:.1f} |")


if __name__ == "__main__":
    main()
