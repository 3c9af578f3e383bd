"""The nouns of the registry, as values. Nothing here knows a clock or a database.

Ages are milliseconds before the moment of writing, measured on the worker's
monotonic clock; the store turns them into times of the registry's clock, which
only people read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from crisper.core.states import OnLost, RecoveryState, State, VerdictKind, WorkerState


class Fence(NamedTuple):
    """Who writes: an incarnation, through the recorder of this generation."""

    incarnation: str
    generation: int


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One life of one worker node, as it enrolls itself."""

    id: str
    hostname: str  # Celery's node name, `celery@host`
    scope: str  # broker, virtual host, key prefix, result backend and app name, as a digest
    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    pid_start: int  # clock ticks since boot, from /proc/<pid>/stat
    lease_ms: int
    heartbeat_ms: int
    about: dict[str, Any] = field(default_factory=dict)  # app, pool, concurrency, queues, versions


class Message(NamedTuple):
    """The exact message, for re-sending. `envelope` is JSON of all but the body."""

    body: bytes | None  # None: not kept, and `why_not` says why
    envelope: str
    size: int
    why_not: str | None = None


class Entry(NamedTuple):
    """A delivery that the broker still keeps for whoever got it."""

    task_id: str
    message_id: str
    tag: str


class Published(NamedTuple):
    """A message that left its publisher, until a claim of it is on record."""

    message_id: str
    task_id: str
    scope: str
    name: str
    queue: str
    retries: int
    loss_budget: int
    message: Message
    args_preview: str
    kwargs_preview: str
    age_ms: int = 0  # since it was published
    delay_ms: int = 0  # its own: it may not be claimed before that
    missing: int = 0  # looks in a row that found it nowhere in the broker
    vanished: int = 0  # times it was declared vanished, and sent again
    until: int = 0  # it is its courier's to look for: the fence of what that one writes


class Unclaimed(NamedTuple):
    """What a courier needs in order to look for a published message in the broker."""

    message_id: str
    queue: str
    age_ms: int
    missing: int
    until: int  # of `Published`


class Look(NamedTuple):
    """What came of looking for a message that nobody has claimed."""

    message_id: str
    until: int  # as it was taken: of one that another courier has taken since, nothing is written
    missing: int
    due_in_ms: int  # until the next look


class Claim(NamedTuple):
    """A delivery asks to run. `(incarnation, seq)` is the attempt's handle until it closes."""

    seq: int
    task_id: str
    message_id: str
    identified: bool  # the message id came in a header, not from its looks
    name: str
    queue: str
    retries: int
    redelivered: bool
    acks_late: bool
    dispatched: bool  # a pool slot was free: the body may begin as soon as this is durable
    tag: str
    on_lost: OnLost
    loss_budget: int
    message: Message
    args_preview: str
    kwargs_preview: str
    copy: bool = False  # its worker holds another delivery of it, on the same connection
    #: The incarnation that let it run while the registry was away, and wrote it into its journal.
    provisional: str = ""
    #: And the same journal says that its delivery was given back.
    given_back: bool = False
    age_ms: int = 0


class Start(NamedTuple):
    """The pool accepted the attempt: process `pid` runs it. `dispatched` alone if pid is 0."""

    claim_seq: int
    task_id: str
    pid: int
    pid_start: int
    age_ms: int = 0


class Finish(NamedTuple):
    """An attempt closed with what Celery, or the pool child itself, said of it."""

    seq: int
    claim_seq: int
    task_id: str
    state: State
    reason: str | None = None
    runtime_ms: int | None = None
    age_ms: int = 0
    pid: int | None = None


class ChildLost(NamedTuple):
    """The parent saw the process of a running attempt die; the attempt closes as lost."""

    seq: int
    claim_seq: int
    task_id: str
    counted: bool  # against the loss budget; a shutdown's victims are not
    evidence: dict[str, Any]
    age_ms: int = 0


class Checkpoint(NamedTuple):
    """Where a running attempt says that the next one may go on. Of a task, the last one counts."""

    seq: int  # of its own, and none of the worker's records
    claim_seq: int
    task_id: str
    data: str  # JSON, for the task alone
    preview: str  # for people
    age_ms: int = 0


class Note(NamedTuple):
    """An event worth keeping that changes no attempt (adopted, overlap, error)."""

    seq: int
    kind: str
    task_id: str | None
    data: dict[str, Any]
    age_ms: int = 0


Record = Claim | Start | Checkpoint | Finish | ChildLost | Note


class Answer(NamedTuple):
    """What became of a claim, a checkpoint, a finish or a child's loss."""

    seq: int
    #: granted, stopped, parked, refused, put_back, overlap | kept, late | closed, late, settled, lost
    kind: str
    number: int = 0  # 0: not known yet
    reason: str = ""
    checkpoint: str = ""  # the task's last one, with the grant of an attempt that is not its first


class Order(NamedTuple):
    """A person's order to stop an attempt, as the worker that holds it needs it."""

    seq: int  # of its claim
    number: int
    why: str  # `core.verdict.stopped_by`


@dataclass(frozen=True, slots=True)
class Attempt:
    """One row of the registry, without its message."""

    task_id: str
    number: int
    message_id: str
    name: str
    queue: str
    incarnation: str
    seq: int
    state: State
    acks_late: bool
    dispatched: bool
    redelivered: bool
    retries: int
    tag: str
    copy_refused: bool
    pid: int | None
    pid_start: int | None
    on_lost: OnLost
    loss_budget: int
    received_at: int
    started_at: int | None
    finished_at: int | None
    runtime_ms: int | None
    closed_seq: int | None
    counted: bool  # as a loss
    reason: str | None
    message_size: int
    why_not_kept: str | None

    @property
    def ran(self) -> bool:
        """Whether a body may have begun: seen running, or durably dispatched."""
        return self.started_at is not None or self.dispatched


@dataclass(frozen=True, slots=True)
class Recovery:
    """The one row that carries out what is decided about a lost attempt."""

    task_id: str
    number: int
    message_id: str
    name: str
    scope: str
    state: RecoveryState
    version: int  # every change counts it up, and repeats the one it saw
    #: worker, child, shutdown, vanished, vanished again; stop: it was not lost, a person stopped it and
    #: recovers it
    cause: str
    losses: int  # running attempts of the task lost so far, since a person last recovered it
    verdict: VerdictKind | None
    reason: str | None
    evidence: dict[str, Any]
    courier: str | None
    decided_by: str | None
    created_at: int
    decided_at: int | None
    due_at: int | None
    sent_at: int | None
    done_at: int | None


@dataclass(frozen=True, slots=True)
class Case:
    """A recovery taken by a courier, with all the registry knows that the verdict asks for."""

    recovery: Recovery
    attempt: Attempt
    message: Message
    superseded: bool  # a claim of this task with a higher `retries` exists
    finished_before: bool  # an earlier attempt of this task may have left a result
    overdue: bool  # a redelivery was awaited and did not come in time


@dataclass(frozen=True, slots=True)
class Worker:
    """One row of the incarnations table."""

    id: str
    hostname: str
    scope: str
    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    pid_start: int
    recorder_pid: int
    recorder_start: int
    lease_ms: int
    heartbeat_ms: int
    state: WorkerState
    counter: int
    generation: int
    started_at: int
    seen_at: int
    ended_at: int | None
    cleared: bool  # no open attempt is left of a lost or gone one
    evidence: dict[str, Any]
    about: dict[str, Any]
    pulse: dict[str, Any]


class Lease(NamedTuple):
    """As much of a live worker's row as a sweep asks for: each worker's sweep reads all of them."""

    id: str
    counter: int
    lease_ms: int
    boot_id: str
    pid_namespace: str
    pid: int
    pid_start: int
    recorder_pid: int
    recorder_start: int


class Sighting(NamedTuple):
    """What a recorder saw of its worker: an event that changes nothing."""

    kind: str  # wedged, silent, stalled, went_on
    data: dict[str, Any]
    task_id: str | None = None
    number: int | None = None


class Progress(NamedTuple):
    """How far a running attempt says that it is."""

    done: int | float
    total: int | float | None = None
    note: str = ""


class Pulse(NamedTuple):
    """What a heartbeat carries for people: it decides nothing."""

    recorder_pid: int
    recorder_start: int
    loop_age_ms: int | None
    detail: dict[str, Any]
    #: By the seq of its claim, what is known of each attempt that runs and says something of itself.
    running: dict[str, Any] | None = None
