"""Hosts: their clocks, their disks, and what can be proved on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crisper.core.model import Claim, Finish, Lease, Worker
from crisper.engine.journal import Journal
from crisper.engine.lines import Told
from crisper.testing.simulate.world import Process, World

if TYPE_CHECKING:
    from crisper.testing.simulate.registry import Registry

MOST_BYTES = 64 * 2**20


class Disk:
    """A folder of journals. A host that dies loses what it had not synced, and may tear the last write."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.files: dict[str, SimulatedFile] = {}

    def open(self, name: str, by: Process) -> SimulatedFile | None:
        """Locked by whoever opens it; None while another has it open."""
        file = self.files.get(name)
        if file is None:
            file = self.files[name] = SimulatedFile(self, name)
        if file.lock is not None and file.lock.alive:
            return None
        file.lock = by
        return file

    def crash(self) -> None:
        for file in self.files.values():
            file.crash()

    def tells(self, process: str, seq: int, kind: type) -> bool:
        """Whether a journal of that process holds this claim, or the outcome of this claim."""
        for name, file in self.files.items():
            if not name.startswith(process) or not file.data:
                continue
            for found in Journal(file, most_bytes=MOST_BYTES).lines():
                record = found.line.record if isinstance(found.line, Told) else None
                if isinstance(record, kind):
                    assert isinstance(record, Claim | Finish)
                    if (record.seq if isinstance(record, Claim) else record.claim_seq) == seq:
                        return True
        return False

    def has(self, process: str, text: str) -> bool:
        """Whether a journal of that process holds this, safe from the loss of its host."""
        quoted = text.strip('"').encode()
        return any(name.startswith(process) and quoted in file.synced for name, file in self.files.items())


class SimulatedFile:
    """`crisper.engine.journal.File`. Room that is reserved reads as nothing: no frame is in it."""

    def __init__(self, disk: Disk, name: str) -> None:
        self.disk, self.name = disk, name
        self.data = bytearray()
        self.synced = b""
        self.reserved = 0
        self.lock: Process | None = None

    def size(self) -> int:
        return max(len(self.data), self.reserved)

    def read(self, at: int, count: int) -> bytes:
        return bytes(self.data[at : at + count])

    def write(self, at: int, data: bytes) -> None:
        host = self.disk.host
        torn = host.tears_write()
        if torn is not None:  # the blocks behind what was written read as zeros
            cut = int(len(data) * torn)
            self.data[at:] = data[:cut] + bytes(len(data) - cut)
            self.synced = bytes(self.data)
            host.world.history.seen("a torn write of a journal")
            host.die("its power fails in the middle of a write")
            host.world.risk(self.lock or host.ghost, "")
        self.data[at:] = data

    def sync(self) -> None:
        self.synced = bytes(self.data)

    def reserve(self, size: int) -> None:
        self.reserved = max(self.reserved, size)

    def truncate(self, size: int) -> None:
        del self.data[size:]
        self.reserved = 0
        self.synced = bytes(self.data)

    def is_lost(self) -> bool:
        return False

    def restore(self) -> None: ...

    def remove(self) -> None:
        self.disk.files.pop(self.name, None)

    def close(self) -> None:
        self.lock = None

    def crash(self) -> None:
        self.data[:] = self.synced
        self.lock = None


class Host:
    """A machine. Its clock has its own rate and its own zero."""

    def __init__(self, world: World, name: str, rate: float) -> None:
        self.world, self.name, self.rate = world, name, rate
        self.boots, self.cut = 1, False
        self.offset = world.rng.randrange(10**6)
        self.processes: list[Process] = []
        self.disk = Disk(self)
        self.torn = 0.0  # the chance that a write to the disk is the host's last
        self.ghost = Process(f"{name}/nobody")
        self.ghost.alive = False
        self.pids: dict[int, Process] = {}

    @property
    def boot_id(self) -> str:
        return f"{self.name}-boot{self.boots}"

    def ms(self) -> int:
        return self.offset + int(self.world.now * self.rate)

    def seconds(self) -> float:
        return (self.offset + self.world.now * self.rate) / 1000

    def tears_write(self) -> float | None:
        rng = self.world.rng
        if self.world.healed or not self.torn or rng.random() >= self.torn:
            return None
        return rng.random()

    def process(self, name: str) -> Process:
        process = Process(name)
        self.processes = [one for one in self.processes if one.alive]
        self.processes.append(process)
        return process

    def new_pid(self, process: Process) -> int:
        pid = 100 + len(self.pids)
        self.pids[pid] = process
        return pid

    def die(self, why: str) -> None:
        for process in list(self.processes):
            self.world.kill(process, why)
        self.disk.crash()
        self.boots += 1


class Neighbours:
    """`crisper.engine.sweeper.Host` of one boot of one host."""

    def __init__(self, host: Host, registry: Registry) -> None:
        self._host, self._boot, self._registry = host, host.boot_id, registry

    def is_gone(self, worker: Worker | Lease) -> bool | None:
        if worker.boot_id != self._boot:
            return None
        process = self._host.pids.get(worker.pid)
        return None if process is None else not process.alive

    def has_recorder(self, worker: Worker | Lease) -> bool:
        process = self._host.pids.get(worker.recorder_pid)
        return process is not None and process.alive

    def stop_left_overs(self, worker: Worker | Lease, processes: list[tuple[int, int]]) -> bool:
        for pid, _ in processes:
            process = self._host.pids.get(pid)
            if process is not None:
                self._host.world.kill(process, "is stopped as a left-over")
        return True
