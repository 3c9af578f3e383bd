"""What this host can prove about the workers that run on it."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from crisper.core.model import Lease, Worker
from crisper.engine.adoption import Adopter
from crisper.recorder.witness import Process, boot_id, is_gone, pid_namespace, process_start

#: A killed process is gone within this, unless the kernel holds it in a call.
GONE_SECONDS = 2.0


class ThisHost:
    """Sees processes of the same boot of the same kernel, in the same pid namespace."""

    def __init__(self) -> None:
        self.name, self.boot_id, self.pid_namespace = socket.gethostname(), boot_id(), pid_namespace()

    def is_gone(self, worker: Worker | Lease) -> bool | None:
        same = worker.pid_namespace == self.pid_namespace and worker.boot_id == self.boot_id
        if not (same and self.boot_id):
            # Another boot of the same machine ended everything of the one before; but a
            # hostname alone does not say that it is the same machine. The lease decides.
            return None
        return is_gone(worker.pid, worker.pid_start)

    def has_recorder(self, worker: Worker | Lease) -> bool:
        return bool(worker.recorder_pid) and process_start(worker.recorder_pid) == worker.recorder_start

    def stop_left_overs(self, worker: Worker | Lease, processes: list[tuple[int, int]]) -> bool:
        left = [Process(pid, start) for pid, start in processes if process_start(pid) == start]
        try:
            for process in left:
                process.kill()
            return all(process.wait(GONE_SECONDS) for process in left)
        finally:
            for process in left:
                process.close()


class Patient(ThisHost):
    """Proves nothing of a worker whose journal is still to be replayed: what it says comes first."""

    def __init__(self, adopters: Sequence[Adopter]) -> None:
        super().__init__()
        self._adopters = adopters

    def is_gone(self, worker: Worker | Lease) -> bool | None:
        gone = super().is_gone(worker)
        return None if gone and any(one.has_more_to_say(worker.id) for one in self._adopters) else gone
