"""The verbs of a store and their promises.

Every verb is one transaction. Every write is a compare-and-set that repeats the
evidence it was decided on, and tells its caller whether it won: losing a race is
an answer, not an error. A store is used by one thread at a time.

All verbs raise `RegistryUnreachable` when the database does not answer; the
transaction's outcome is then unknown, and every verb may safely be repeated.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol

from crisper.core.model import (
    Answer,
    Case,
    Entry,
    Fence,
    Incarnation,
    Lease,
    Look,
    Order,
    Published,
    Pulse,
    Record,
    Recovery,
    Sighting,
    Worker,
)
from crisper.core.states import Saw, State, VerdictKind
from crisper.core.verdict import Judgement


class Term(NamedTuple):
    """Who leads, and the counter that shows the leader renewing."""

    holder: str
    counter: int


class Closed(NamedTuple):
    """What one batch of `close_lost` did."""

    task_ids: tuple[str, ...]
    more: bool  # the incarnation may have further open attempts


class Stopped(NamedTuple):
    """What an order to stop a task was put on."""

    number: int
    state: State  # of the attempt, as the order found it
    recovery: Recovery | None  # of a lost one: decided, and not yet carried out


class Old(NamedTuple):
    """What is old: it was over before these times of the registry's clock, in ms."""

    finished: int  # a task that was never lost
    lost: int  # one that was, at any time; not later than `finished`
    events: int


class Mark(NamedTuple):
    """How far a pass over what is old has come."""

    received_at: int = -(2**62)
    task_id: str = ""


START = Mark()


class Pruned(NamedTuple):
    """What one batch of a pass forgot."""

    tasks: int
    mark: Mark | None  # where the pass goes on; None: it is at its end


class Store(Protocol):
    """The registry, as the engine sees it."""

    def identity(self) -> str:
        """The registry's own id, made when its schema was created."""

    def look_around(self) -> None:
        """Look again whether replicas follow the registry. Raises `RegistryMoved` if it is another server."""

    def close(self) -> None: ...

    def abort(self) -> None:
        """From any thread: make a call that hangs fail now with `RegistryUnreachable`."""

    # -- incarnations ---------------------------------------------------------

    def enroll(self, incarnation: Incarnation) -> Fence:
        """Write a new incarnation, alive, counter 0, generation 1. Repeating it changes nothing."""

    def replace_recorder(self, fence: Fence) -> Fence | None:
        """Move the fence to the next recorder generation; None if it had moved or closed already."""

    def renew(self, fence: Fence, pulse: Pulse) -> bool:
        """Count the heartbeat up, and keep what it tells; False, and nothing is kept, if the incarnation is
        fenced. What it tells of running attempts stays until it tells of others: of one that has ended it
        means nothing."""

    def alive(self) -> list[Worker]:
        """Every incarnation in state alive."""

    def leases(self) -> list[Lease]:
        """Every incarnation in state alive, in a tenth of what `alive` costs."""

    def uncleared(self) -> list[Worker]:
        """Incarnations lost or gone that may still have open attempts."""

    def running_processes(self, id: str) -> list[tuple[int, int]]:
        """`(pid, start)` of what an incarnation's running attempts run in, where known."""

    def declare_lost(self, id: str, counter: int, *, by: str, evidence: dict[str, Any]) -> bool:
        """Alive with this very counter becomes lost; False if it moved meanwhile."""

    def declare_own_loss(self, fence: Fence, *, evidence: dict[str, Any]) -> bool:
        """The witness declares its own parent dead, whatever the counter; fenced by generation."""

    def say_goodbye(self, fence: Fence, *, reason: str) -> bool:
        """Alive becomes gone. What is still open is then closed as lost by any sweeper."""

    def testify(self, fence: Fence, seen: Sequence[Sighting]) -> bool:
        """Keep as events what its recorder saw of an incarnation; False, and nothing is kept, if it is
        fenced. Repeating it keeps them twice."""

    # -- the way of an attempt ------------------------------------------------

    def record(
        self, fence: Fence, records: Sequence[Record], *, renewing: Collection[str] | None = None
    ) -> list[Answer]:
        """Apply the records in order while the fence holds: of each task, the first of them or all. Where the
        fence moves in between, what was written before stays, as if it had come in a batch of its own.

        Idempotent: a record that changed something is answered as it was then; a claim
        that was parked or put back changed nothing, and asks anew. A claim that is granted
        although a person ordered its task to stop is answered `stopped`, with why: it must
        not begin. `renewing` names
        incarnations whose leases the caller saw move lately; None: it has not looked. If it has, a
        redelivered message that nobody has on record is parked while an incarnation of the same scope
        does not renew, or says that it has a journal to replay: it may have run it.
        An attempt that is not its task's first is granted with the task's last checkpoint, unless the task
        has succeeded since. A checkpoint of an attempt that is open is `kept`, in the place of the task's
        last one; of any other it is `late`, and changes nothing.
        A claim that is `provisional` became an attempt, or has a rival and is answered `overlap`.
        Answers follow claims, checkpoints, finishes and children's losses, one each, in order.

        Raises `Fenced` unless all was written; what was not changes nothing, but finishes of an
        incarnation that is over are kept as events.
        """

    def left_over(self, entries: Sequence[Entry]) -> list[bool]:
        """For each delivery that the broker keeps: `core.gate.is_left_over`, by what is on record."""

    def orders(self, incarnation: str) -> list[Order]:
        """Open attempts of it that a person ordered to stop, by seq; told until they are closed.

        Orders that came too late, or were carried out, are closed.
        """

    # -- losses and recoveries ------------------------------------------------

    def close_lost(self, id: str, *, by: str, limit: int = 500) -> Closed:
        """Close open attempts of an incarnation that is not alive, each with a pending recovery.

        What a person ordered to stop is decided at once: revoked, for a courier to carry out.
        Rows that another sweeper has locked are skipped. When none is left the
        incarnation is marked cleared.
        """

    def take_cases(self, courier: str, scope: str, *, limit: int, again: bool = False) -> list[Case]:
        """Give this courier recoveries of its scope: pending ones, overdue waits, and what
        a courier whose incarnation is over, or that took too long, left half done.

        `again`: and what it was given before, and never heard of.
        """

    def decide(
        self,
        recovery: Recovery,
        verdict: VerdictKind,
        reason: str,
        evidence: dict[str, Any],
        *,
        by: str,
        due_in_ms: int | None = None,
    ) -> Recovery | None:
        """Commit a verdict over the version seen, with its audit event; None if it moved. Where it moved by
        this very call, whose answer was lost, it is answered again.

        Raises `ValueError` for a verdict that the recovery's state does not allow
        (`core.states.may_decide`).
        """

    def decide_all(self, judgements: Sequence[Judgement], *, by: str) -> list[Recovery | None]:
        """`decide` for each, in one transaction; each wins or loses by itself."""

    def complete(self, recovery: Recovery, *, by: str, data: dict[str, Any]) -> bool:
        """The verdict was carried out; False if the recovery moved."""

    def complete_all(self, recoveries: Sequence[Recovery], *, by: str) -> list[bool]:
        """`complete` for each, in one transaction, with the verdict's reason for data."""

    def give_up_case(self, recovery: Recovery, *, by: str, why: str, due_in_ms: int) -> bool:
        """The courier could not carry it out now: taken again, not before `due_in_ms`.

        What was decided is pending again, to be judged on fresh facts; what a person
        decided, and what is awaited, stays as it is.
        """

    # -- publishing on record -------------------------------------------------

    def publish(self, messages: Sequence[Published], *, due_in_ms: int) -> None:
        """These left, and are looked for after `due_in_ms` unless they are claimed. Repeating it
        changes nothing."""

    def retract(self, message_id: str) -> None:
        """This one did not leave after all."""

    def take_unclaimed(self, scope: str, *, limit: int) -> list[Published]:
        """Messages that are due and were never claimed, to be looked for in the broker by the caller
        alone, for a minute. What has been claimed meanwhile is forgotten."""

    def look_again(self, looks: Sequence[Look]) -> None:
        """These were looked for; what another courier has taken since stays as it is."""

    def declare_vanished(
        self, messages: Sequence[tuple[str, int]], *, by: str, evidence: dict[str, Any], due_in_ms: int
    ) -> list[str]:
        """Of these, by id and `until`, those that are still the caller's and not claimed become lost
        attempts that never ran, each with a pending recovery of cause `vanished`, to be looked for once
        more after `due_in_ms`; the second time the cause is `vanished again`, and that is the end of it.
        Returns their task ids."""

    # -- leadership -----------------------------------------------------------

    def term(self, name: str) -> Term | None:
        """Who leads."""

    def campaign(self, name: str, holder: str, seen: Term | None) -> Term | None:
        """Take or renew leadership by compare-and-set on the term seen; None if it moved."""

    # -- its clock ------------------------------------------------------------

    def clock(self) -> tuple[int, int]:
        """Milliseconds of the registry's clock, and how many steps of it were mended so far."""

    def mend_clock(self, mended: int, step_ms: int) -> bool:
        """The clock was put forward by so much (back, if negative): whatever waits by it waits for as long
        as it would have. False if somebody has mended a step since `mended` was read."""

    # -- a person's verbs -----------------------------------------------------

    def recover(self, task_id: str, *, by: str, reason: str, saw: Saw | None = None) -> Recovery | None:
        """Decide that the latest attempt's kept message is sent again, its losses counted anew.

        None if the latest attempt is not lost and waiting for a person, failed by policy,
        discarded or stopped, its message is not kept, or it is no more as somebody `saw` it. The caller
        carries it out and completes it.
        """

    def discard(self, task_id: str, *, by: str, reason: str, saw: Saw | None = None) -> bool:
        """Close a quarantined or held task for good, if it still is as somebody `saw` it; its message is
        kept until pruned."""

    def stop(self, task_id: str, *, by: str, reason: str, saw: Saw | None = None) -> Stopped | None:
        """Order the task's latest attempt to stop; None if it is over, not on record, or no more as
        somebody `saw` it.

        One that is open is stopped by its worker, which finds the order by `orders`. One that was
        given back, or sent its own retry, is stopped when its message, or that retry, is claimed.
        A lost one is decided as revoked. Repeating it changes nothing. The message is kept until
        it is pruned, so that `recover` can undo it.
        """

    def note(
        self, kind: str, task_id: str | None, number: int | None, actor: str, data: dict[str, Any]
    ) -> None:
        """Append an event that changes nothing else."""

    def case(self, task_id: str, number: int) -> Case | None:
        """The case of one recovery, without taking it."""

    # -- retention ------------------------------------------------------------

    def prune_tasks(self, old: Old, after: Mark = START, *, limit: int, only_count: bool = False) -> Pruned:
        """Forget tasks all of whose attempts are old, looking at so many attempts at most. A task stays if
        any of it is open, waits for a person or a courier, or an order to stop it stands. Its events stay."""

    def prune_rest(self, old: Old, *, limit: int) -> int:
        """Forget old events and incarnations which belong to no task on record; how many rows."""
