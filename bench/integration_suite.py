"""Celery's own integration suite on Celery alone and with Crisper installed: which tests differ.

    python bench/integration_suite.py CHECKOUT [--tests test_canvas.py test_tasks.py …] [--deselect TEST …]

CHECKOUT is a source tree of the Celery version that is installed here, its repository or its source
distribution. Its tests run unchanged, against a Redis of their own as broker and backend, with the worker
that the suite starts itself (prefork, in the process of the tests). Crisper comes in by the file of settings
that the suite reads: `imports` gets `crisper.autoload`, nothing else. Tests that end differently are run
once more on both sides. Ends with 1 if some differ again. Besides the development requirements it wants
those of the suite: pytest-rerunfailures, pytest-subtests, pytest-order, freezegun, tblib, cryptography,
pydantic.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import celery

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.servers import PrivateRedis

Outcomes = dict[str, str]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument(
        "--tests", nargs="+", default=[""], metavar="FILE", help="of t/integration; all if none"
    )
    parser.add_argument("--deselect", nargs="+", default=[], metavar="TEST")
    parser.add_argument(
        "--logs", type=Path, default=Path(tempfile.gettempdir()), help="where the output goes"
    )
    options = parser.parse_args()
    _same_version(options.checkout)
    tests = [f"t/integration/{name}".rstrip("/") for name in options.tests]
    first = both_ways(options, tests)
    for side, outcomes in first.items():
        show(side, outcomes)
    differ = differing(first)
    print(f"\n{len(differ)} tests ended differently", *differ, sep="\n  ")
    if not differ:
        return 0
    again = both_ways(options, sorted(differ), log="again")
    still = differing(again)
    print(f"\nrun once more, {len(still)} of them differ", *still, sep="\n  ")
    return 1 if still else 0


def _same_version(checkout: Path) -> None:
    wanted = f"__version__ = '{celery.__version__}'"
    if wanted not in (checkout / "celery" / "__init__.py").read_text():
        sys.exit(f"{checkout} is not Celery {celery.__version__}, which is installed here")


def both_ways(options: argparse.Namespace, tests: list[str], log: str = "all") -> dict[str, Outcomes]:
    """Beside each other: they wait more than they compute."""
    sides = ("Celery alone", "with Crisper")
    with ThreadPoolExecutor() as both:
        runs = [
            both.submit(
                run,
                options,
                tests,
                side == "with Crisper",
                options.logs / f"suite-{log}-{side.split()[-1]}.log",
            )
            for side in sides
        ]
        return {side: one.result() for side, one in zip(sides, runs, strict=True)}


def run(options: argparse.Namespace, tests: list[str], recorded: bool, log: Path) -> Outcomes:
    """What became of each test."""
    with PrivateRedis() as redis, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copytree(options.checkout / "t", folder / "t")
        shutil.copy(options.checkout / "pyproject.toml", folder)
        settings = {"imports": ["crisper.autoload"]} if recorded else {}
        (folder / "integration-tests-config.json").write_text(json.dumps(settings))
        environment = {
            **os.environ,
            "TEST_BROKER": redis.url,
            "TEST_BACKEND": redis.url,
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(redis.port),
            "CRISPER_REGISTRY_URL": f"sqlite:///{folder / 'registry.db'}",
            "PYTHONPATH": str(folder),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",  # for `celery`
        }
        command = [sys.executable, "-P", "-m", "pytest", "-v", "--continue-on-collection-errors"]
        command += ["-p", "no:cacheprovider", "-p", "celery.contrib.pytest"]
        command += [f"--deselect={name}" for name in options.deselect]
        command += [f"--junitxml={folder / 'report.xml'}", *tests]
        with log.open("wb") as out:
            subprocess.run(command, cwd=folder, env=environment, stdout=out, stderr=out, check=False)
        _recorded_something(folder / "registry.db", recorded)
        return outcomes(folder / "report.xml")


def _recorded_something(registry: Path, recorded: bool) -> None:
    """That the two sides are what they are called."""
    if registry.exists() != recorded:
        sys.exit("Crisper was to be there and was not" if recorded else "Crisper was there and was not to be")
    if recorded:
        import sqlite3

        rows = sqlite3.connect(registry).execute("SELECT state, count(*) FROM crisper_attempt GROUP BY state")
        print("attempts on record:", ", ".join(f"{count} {state}" for state, count in rows))


def outcomes(report: Path) -> Outcomes:
    found = {}
    for case in xml.parse(report).iter("testcase"):
        _, _, rest = (case.get("classname") or "").partition("t.integration.")
        module, _, group = rest.partition(".")
        name = "::".join(filter(None, (f"t/integration/{module}.py", group, case.get("name"))))
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        found[name] = next(iter(kinds), "passed").replace("failure", "failed")
    return found


def differing(sides: dict[str, Outcomes]) -> list[str]:
    plain, recorded = sides.values()
    return [name for name in {**plain, **recorded} if plain.get(name) != recorded.get(name)]


def show(side: str, found: Outcomes) -> None:
    counts = Counter(found.values())
    print(f"\n{side}: " + ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    _list(name for name, kind in found.items() if kind in ("failed", "error"))


def _list(names: Iterable[str]) -> None:
    for name in names:
        print(f"  not passed: {name}")


if __name__ == "__main__":
    sys.exit(main())
