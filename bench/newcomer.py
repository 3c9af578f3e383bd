"""What the tutorial takes in a new virtual environment, from `pip install` to the dashboard, but for typing.

python bench/newcomer.py

It needs redis-server, and what pip asks for its packages.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.examples.page import Reader, blocks, commands  # noqa: E402
from tests.examples.shop import own_environment  # noqa: E402
from tests.servers import PrivateRedis, free_port  # noqa: E402

PAGE = ROOT / "docs" / "tutorial.md"


class Watch:
    """Says what has been done, and how long it took."""

    def __init__(self) -> None:
        self.began = self.last = time.monotonic()
        print("| step | seconds |\n|---|---|")

    def done(self, step: str) -> None:
        now = time.monotonic()
        print(f"| {step} | {now - self.last:.1f} |", flush=True)
        self.last = now


def wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def main() -> None:
    with tempfile.TemporaryDirectory() as name, PrivateRedis() as redis:
        folder = Path(name)
        built = wheel(folder / "dist")
        environment = own_environment(folder, redis.url)
        environment["PATH"] = f"{folder / 'venv' / 'bin'}{os.pathsep}{environment['PATH']}"
        install, *steps, serve = commands(PAGE)
        watch = Watch()
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        watch.done("a virtual environment")
        packages = install.line.replace("celery-crisper", str(built)).replace(
            "pip install", "pip install --quiet"
        )
        subprocess.run(["bash", "-c", packages], env=environment, check=True)
        watch.done(f"`{install.line}`")
        (folder / "shop.py").write_text(blocks(PAGE, "python")[0])
        with closing(Reader(folder, environment)) as reader:
            for step in steps:
                reader.follow(step)
                watch.done(f"`{step.line}`")
            said = reader.follow(serve._replace(line=f"{serve.line} --port {free_port()}"))
            httpx.get(said.split()[-1], follow_redirects=True).raise_for_status()
            watch.done("the dashboard")
    print(f"| all | {watch.last - watch.began:.1f} |")


if __name__ == "__main__":
    main()
