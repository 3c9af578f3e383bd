"""Everything that the checks judge by, collected once. What could not be learnt is None."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crisper.settings import Settings

WAITING, FOR_ITS_ETA = "may keep others waiting for", "waits for its ETA for"

#: A task that takes so long is a long one, in seconds.
LONG_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Task:
    """As the app registers it."""

    name: str
    acks_late: bool = False
    reject_on_worker_lost: bool = False
    ignore_result: bool = False
    time_limit: float | None = None  # its own, hard or else soft, in seconds
    on_lost: str | None = None  # its own, or the setting's where that says more than auto
    loss_budget: int = 3
    makes_chords_of: tuple[str, ...] = ()  # tasks that a body which makes a chord names


@dataclass(frozen=True, slots=True)
class Address:
    """Where the app connects to, and as whom."""

    setting: str
    host: str
    loopback: bool
    has_password: bool
    is_guest: bool = False  # RabbitMQ's own account, with its own password


@dataclass(frozen=True, slots=True)
class App:
    name: str | None = None
    installed: bool = True
    tasks: tuple[Task, ...] = ()
    time_limit: float | None = None  # of all tasks, in seconds
    prefetch_multiplier: int = 1
    disables_prefetch: bool = False
    detects_quorum_queues: bool = True
    soft_shutdown: float = 0.0  # seconds
    options_beside: bool = False  # whether the broker has transport options but the visibility timeout
    accepts: tuple[str, ...] = ("json",)
    accepts_results: tuple[str, ...] = ("json",)
    no_chords: str | None = None  # why the result backend takes no chord at all
    backend_counts_ignored: bool = True  # whether a chord may have members that ignore their results
    addresses: tuple[Address, ...] = ()
    celery: tuple[int, ...] = (5, 5)
    python: tuple[int, ...] = (3, 11)
    sqlite: tuple[int, ...] = ()  # Python's library, if the registry is a file of it


@dataclass(frozen=True, slots=True)
class Queue:
    """On RabbitMQ."""

    name: str
    declared_quorum: bool = False
    is_quorum: bool | None = None  # on the server, by the management API
    delivery_limit: int | None = None
    dead_letter_exchange: str | None = None
    dead_letter_is_there: bool | None = None
    consumer_timeout: float = 1800.0  # seconds
    timeout_is_assumed: bool = True  # RabbitMQ's default: the server's own file cannot be read
    arguments: Mapping[str, Any] = field(default_factory=dict)  # as the app declares them


@dataclass(frozen=True, slots=True)
class Broker:
    kind: str = "redis"  # kombu's driver type
    supported: bool = True
    version: tuple[int, ...] = ()
    visibility_timeout: float | None = None  # Redis, in seconds
    eviction: str | None = None  # Redis: its policy, if its memory has a limit
    queues: tuple[Queue, ...] = ()
    nodes: tuple[str, ...] | None = None  # hostnames of workers that answered


@dataclass(frozen=True, slots=True)
class Worker:
    """A live one, on record."""

    hostname: str
    host: str
    machine: str = ""  # the boot id: containers of one machine share it
    app: str | None = None
    crisper: str | None = None
    celery: str | None = None
    lease: float = 20.0


@dataclass(frozen=True, slots=True)
class Pause:
    """A worker that was declared lost by silence, and whose process went on."""

    hostname: str
    seconds: float


@dataclass(frozen=True, slots=True)
class NotKept:
    count: int
    largest: int  # bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Connections:
    most: int  # that the server gives to ordinary users
    others: int  # in use, and not Crisper's


@dataclass(frozen=True, slots=True)
class Registry:
    database: str = "sqlite"
    version: tuple[int, ...] = ()
    offset: float | None = None  # of its clock to this host's, in seconds, less what the way may explain
    longest: dict[str, float] = field(default_factory=dict)  # seconds that an attempt took or is taking
    cut_short: dict[str, float] = field(default_factory=dict)  # that one had run when it was lost or stopped
    countdowns: dict[str, float] = field(default_factory=dict)  # seconds from receipt to ETA
    chord_members: frozenset[str] = frozenset()
    received: int = 0  # messages of the last day, of those looked at
    unnamed: int = 0  # of these, from publishers without Crisper
    not_kept: tuple[NotKept, ...] = ()
    largest_kept: int = 0  # bytes, of the last week's messages
    workers: tuple[Worker, ...] = ()
    just_ended: frozenset[str] = frozenset()  # hostnames of workers that ended in the last minute
    pauses: tuple[Pause, ...] = ()
    connections: Connections | None = None


@dataclass(frozen=True, slots=True)
class Journal:
    """Its folder, on this host."""

    folder: str
    writable: bool = True
    free: int | None = None  # bytes
    filesystem: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    name: str = ""
    journal: Journal | None = None
    grace: float | None = None  # seconds from SIGTERM to SIGKILL, as told


@dataclass(frozen=True, slots=True)
class ToBe:
    """A SQLite registry that no worker has made yet: the first one makes it, if it may."""

    path: str
    writable: bool


@dataclass(frozen=True, slots=True)
class Trouble:
    """A source that could not be asked."""

    source: str  # broker, registry, schema, management, host
    why: str
    fix: str


@dataclass(frozen=True, slots=True)
class Facts:
    settings: Settings
    app: App
    host: Host = Host()
    broker: Broker | None = None
    registry: Registry | None = None
    troubles: tuple[Trouble, ...] = ()
    to_be: ToBe | None = None

    @property
    def records(self) -> bool:
        """Whether workers of this app keep a record."""
        return self.app.installed and self.settings.enabled

    @property
    def blind(self) -> tuple[str, ...] | None:
        """Nodes that answer at the broker and are not on record; None if that cannot be told."""
        if self.broker is None or self.broker.nodes is None or self.registry is None:
            return None
        known = {worker.hostname for worker in self.registry.workers} | self.registry.just_ended
        return tuple(node for node in self.broker.nodes if node not in known)

    @property
    def plain(self) -> str | None:
        """Who runs this app's tasks without a record; None if nobody is known to."""
        if not self.records:
            return "this app's workers keep no record"
        if not self.blind:
            return None
        keep = "worker keeps" if len(self.blind) == 1 else "workers keep"
        return f"{len(self.blind)} {keep} no record"

    def takes(self, task: Task) -> tuple[float, str] | None:
        """How long it takes, and by what we know: its history, else its own time limit.

        An attempt that was cut short took at least so long: it never speaks for a shorter task.
        """
        seen = self.registry.longest.get(task.name) if self.registry is not None else None
        cut = self.registry.cut_short.get(task.name) if self.registry is not None else None
        limit = None if task.time_limit is None else (task.time_limit, "may take")
        known = limit if seen is None else (seen, "took")
        if cut is not None and (known is None or cut > known[0]):
            return cut, "was cut short after"
        return known

    def may_be_held(self, task: Task) -> tuple[float, str] | None:
        """The longest that a worker may hold its message once it runs."""
        takes = self.takes(task)
        limit = task.time_limit or (self.app.time_limit if takes is None else None)
        known = [known for known in (takes, limit and (limit, "may take")) if known]
        return max(known) if known else None

    def held(self) -> dict[str, tuple[float, str]]:
        """How long a message may be unacknowledged for its task's sake: while it runs, if it is acknowledged
        late; behind others of its kind in the prefetch; until its ETA."""
        found = {}
        rounds = 0 if self.app.disables_prefetch else max(1, self.app.prefetch_multiplier)
        for task in self.app.tasks:
            known = self.may_be_held(task)
            if known is None:
                continue
            here = [known] if task.acks_late else []
            waits = known[0] * rounds, WAITING
            found[task.name] = max([waits, *here], key=lambda one: (one[0], one[1] != WAITING))
        for name, ahead in (self.registry.countdowns if self.registry is not None else {}).items():
            found[name] = max(found.get(name, (0.0, "")), (ahead, FOR_ITS_ETA))
        return found

    def long_tasks(self) -> dict[Task, tuple[float, str]]:
        found = {task: self.takes(task) for task in self.app.tasks}
        return {task: takes for task, takes in found.items() if takes and takes[0] >= LONG_SECONDS}

    def has_durations(self) -> bool:
        return any(self.takes(task) for task in self.app.tasks)
