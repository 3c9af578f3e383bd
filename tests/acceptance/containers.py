"""What a container is made of: a worker as pid 1 of its own namespace, its file system taken away."""

from __future__ import annotations

import os
import signal
import subprocess
import time

from tests.fleet import Worker, wait_for
from tests.servers import Unavailable

_NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]

#: All that is mounted becomes read-only, but for the folder given as FLEET_FOLDER and the kernel's own.
_READ_ONLY = """
mount --bind "$FLEET_FOLDER" "$FLEET_FOLDER" || exit 97
awk '{ print $2 }' /proc/mounts | while read -r where; do
  case "$where" in "$FLEET_FOLDER"|/proc*|/sys*|/dev*) ;; *) mount -o remount,bind,ro "$where" ;; esac
done
! touch /tmp/crisper-read-only /crisper-read-only 2>/dev/null || exit 98
"""
_NO_SHM = """
mount -t tmpfs -o ro,size=4k none /dev/shm || exit 97
"""


def container(*, read_only: bool = False, shm: bool = True) -> list[str]:
    """A command that runs the one after it as pid 1. Raises `Unavailable` where that is not allowed."""
    script = (_READ_ONLY if read_only else "") + ("" if shm else _NO_SHM)
    command = [*_NAMESPACES, "sh", "-c", script + 'exec "$@"', "sh"]
    try:
        tried = subprocess.run(
            [*command, "true"],
            env={**os.environ, "FLEET_FOLDER": "/mnt"},
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise Unavailable("unshare is not installed") from None
    if tried.returncode:
        raise Unavailable(f"a container needs root and namespaces: {tried.stderr.strip()[-200:]}")
    return command


def entered(worker: Worker) -> Worker:
    """The worker that was started inside, ready; its `pid` is the host's for the namespace's pid 1."""
    worker.ready()
    worker.pid = wait_for("pid 1", lambda: next(iter(worker.children()), 0))
    return worker


def destroy(worker: Worker) -> float:
    """As `docker kill` does: pid 1 dies, and the kernel kills all that it contained; when, by time.time()."""
    at = time.time()
    os.kill(worker.pid, signal.SIGKILL)
    worker.process.wait(10)
    return at


def zombies(worker: Worker) -> list[str]:
    listed = ["ps", "-o", "stat=,pid=,args=", "--ppid", str(worker.pid)]
    shown = subprocess.run(listed, capture_output=True, text=True, check=False).stdout.splitlines()
    return [line for line in shown if line.startswith("Z")]
