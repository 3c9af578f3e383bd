"""Small libraries that lie to one process about its disk or its clock, by LD_PRELOAD."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.servers import Unavailable

SOURCES = Path(__file__).parent


class Preloaded:
    """`slowfsync` or `clockskew`, compiled into the folder; `environment` is what its process needs."""

    def __init__(self, name: str, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            raise Unavailable("cc is not installed")
        folder.mkdir(parents=True, exist_ok=True)
        library, self._value = folder / f"{name}.so", folder / name
        command = [
            compiler,
            "-shared",
            "-fPIC",
            "-O1",
            "-o",
            str(library),
            str(SOURCES / f"{name}.c"),
            "-ldl",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"{name}.c does not compile: {done.stderr.strip()[-300:]}")
        self.set(0)
        for path in (library, self._value):
            path.chmod(0o755)
        self.environment = {"LD_PRELOAD": str(library), f"{name.upper()}_FILE": str(self._value)}

    def set(self, value: int) -> None:
        """Milliseconds for each fsync; seconds of the clock."""
        self._value.write_text(str(value))
