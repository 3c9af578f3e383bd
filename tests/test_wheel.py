"""What people install: the wheel has every file of the package, no other, and works without the source."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.examples.shop import EXAMPLES, own_environment
from tests.fleet import ROOT
from tests.servers import PrivateRedis

SOURCE = ROOT / "src"
#: Some of those that are no modules.
DATA = ("py.typed", "store/migrations/script.py.mako", "faces/serve/templates/base.html",
        "faces/serve/static/style.css", "faces/shipped/templates/compose.yaml")  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    return wheel


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = [path for path in (SOURCE / "crisper").rglob("*") if path.is_file()]
    wanted = {str(path.relative_to(SOURCE)) for path in files if "__pycache__" not in path.parts}
    assert inside == wanted
    assert {f"crisper/{name}" for name in DATA} <= inside


def test_the_wheel_says_what_it_is_and_what_it_starts(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        said = {
            Path(name).name: archive.read(name).decode() for name in archive.namelist() if "info/" in name
        }
    assert {"METADATA", "LICENSE", "entry_points.txt"} <= set(said)
    for line in ("crisper = crisper.__main__:main", "crisper = crisper.faces.cli:cli", "crisper-probe = "):
        assert line in said["entry_points.txt"]
    for extra in ("postgres", "mariadb", "redis", "serve", "parquet"):
        assert f"Provides-Extra: {extra}\n" in said["METADATA"]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel, and all it depends on, but not the source."""
    environment = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    programs = environment / "bin"
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert uv is not None, "uv is needed: make test puts it into .venv"
    where = ("--python", str(programs / "python"))
    subprocess.run([uv, "pip", "install", "--quiet", "--offline", "--no-deps", *where, wheel], check=True)
    [packages] = environment.glob("lib/python*/site-packages")
    # What stands in a .pth is a path to look in; the links to sources that lie there are not followed.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return programs


def test_installed_from_the_wheel_an_app_is_examined_and_its_registry_made(
    installed: Path, disk: Path, own_redis: PrivateRedis
) -> None:
    environment = own_environment(disk, own_redis.url)
    environment["PATH"] = f"{installed}{os.pathsep}{environment['PATH']}"

    def run(*command: str, code: int = 0) -> str:
        done = subprocess.run(
            command, cwd=EXAMPLES / "plain", env=environment, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    assert run("python", "-c", "import crisper; print(crisper.__file__)").startswith(str(installed.parent))
    assert "Usage: crisper" in run("crisper", "--help")
    assert "celery crisper [OPTIONS]" in run("python", "-m", "celery", "crisper", "--help")
    run("crisper", "-A", "shop", "migrate")
    found = json.loads(run("crisper", "-A", "shop", "doctor", "--json"))["findings"]
    assert {finding["level"] for finding in found} == {"ok"}
    run("crisper-probe", "live", code=1)
