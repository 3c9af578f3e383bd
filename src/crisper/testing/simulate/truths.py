"""The laws that only the truth can tell: what bodies did, was acknowledged, and is left at the end."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

from crisper.core.model import Attempt, Claim, Finish
from crisper.core.states import (
    BRINGS_BACK,
    CLOSED_FOR_GOOD,
    OPEN,
    UNDER_WAY,
    WAITS_FOR_A_PERSON,
    RecoveryState,
    State,
    VerdictKind,
)
from crisper.engine.adoption import AFTERLIFE
from crisper.testing.simulate import laws

if TYPE_CHECKING:
    from crisper.testing.simulate.broker import Message
    from crisper.testing.simulate.held import Held
    from crisper.testing.simulate.history import Body
    from crisper.testing.simulate.life import Site
    from crisper.testing.simulate.parent import Parent
    from crisper.testing.simulate.registry import Registry
    from crisper.testing.simulate.saving import Saving


def begins(parent: Parent, held: Held, body: Body) -> None:
    """I7: on record, or in the journal, before it begins. And no other body of the message runs, or has
    ended on record, but where one of the two was fenced, or ran by the journal's rules."""
    registry, history = parent.site.registry, parent.world.history
    one = registry.attempt_of(held.task.id, parent.life.incarnations, body.seq)
    if one is None and not body.provisional:
        history.broken("I7", f"{held.message_id} begins in {parent.life.name} and is not on record")
    if one is None and not (
        parent.host.disk.tells(parent.life.name, body.seq, Claim) or _was_answered(registry, parent, body)
    ):
        history.broken("I7", f"{held.message_id} begins in {parent.life.name} and is in no journal")
    fenced = one is not None and registry.is_over(one.incarnation)
    if one is not None and one.state not in OPEN and not fenced and not body.provisional:
        history.broken("I2", f"{held.message_id} begins, and its attempt {one.number} is {one.state}")
    if fenced:
        history.seen("a body that began after its fence")
    for other in history.bodies.get(held.message_id, ()):
        _beside(parent, held, body, other, fenced)


def goes_on(parent: Parent, held: Held, body: Body) -> None:
    """From where the gate has said; by the journal's rules, where nobody was asked, from the beginning."""
    registry, history = parent.site.registry, parent.world.history
    one = registry.attempt_of(held.task.id, parent.life.incarnations, body.seq)
    if one is None or body.provisional:
        return
    if held.checkpoint not in registry.given[held.task.id, one.number]:
        history.broken("checkpoint", f"{held.message_id} begins in {parent.life.name} from"
                       f" {held.checkpoint or 'none'}, which the gate has not said")  # fmt: skip
    if held.checkpoint:
        history.seen("a body that went on from a checkpoint")


def is_safe(parent: Parent, made: Saving, where: str) -> None:
    """A body has been told so: it may do now what cannot be undone. A later one of it will do as well."""
    known, disk = parent.site.registry.saved.get(made.task_id, ()), parent.host.disk
    if any(data in made.as_well for _, data in known):
        return
    if where != "journal" or not any(disk.has(parent.life.name, data) for data in made.as_well):
        sentence = f"{made.data} is said to be safe in the {where}, and is not"
        parent.world.history.broken("checkpoint", sentence)


def _was_answered(registry: Registry, parent: Parent, body: Body) -> bool:
    return any((id, body.seq) in registry._once for id in parent.life.incarnations)


def _beside(parent: Parent, held: Held, body: Body, other: Body, fenced: bool) -> None:
    registry, history = parent.site.registry, parent.world.history
    its = _attempt(registry, other)
    excused = fenced or body.provisional or other.provisional
    if other.ended is None and not other.killed:
        if excused or its is None or registry.is_over(its.incarnation):
            history.seen("two bodies at once, after a fence or by a journal")
        else:
            history.broken("I2", f"two bodies of {held.message_id} run at once: in {other.process},"
                           f" which is not fenced, and in {parent.life.name}")  # fmt: skip
    elif its is not None and its.state in CLOSED_FOR_GOOD and not excused:
        history.broken("I9", f"{held.message_id} was {its.state} and begins again in {parent.life.name}")


def _attempt(registry: Registry, body: Body) -> Attempt | None:
    life = registry.truth.get(body.incarnation)
    known = [] if life is None else [*life.incarnations, *("j" + id for id in life.incarnations)]
    return registry.attempt_of(body.message.task.id, known, body.seq)


def acknowledges(parent: Parent, held: Held) -> None:
    """I9: acknowledging is destroying."""
    registry, disk = parent.site.registry, parent.host.disk
    if not held.acks_late and held.body is not None:
        return  # it begins; that it may is I7
    one = registry.attempt_of(held.task.id, parent.life.incarnations, held.seq)
    if one is not None and one.state in CLOSED_FOR_GOOD:
        return
    if disk.tells(parent.life.name, held.seq, Finish) or _settled(registry, held):
        return
    if laws.safe_to_destroy(registry, held.task.id, held.message_id):
        return
    answered = {held.seq, held.finish_seq}
    if any((id, seq) in registry._once for id in parent.life.incarnations for seq in answered):
        return  # refused or late: the gate has answered for it, or its end is on record as an event
    parent.world.history.broken("I9", f"{held.message_id} is acknowledged by {parent.life.name}, and is"
                                " neither finished nor kept")  # fmt: skip


def _settled(registry: Registry, held: Held) -> bool:
    return any(a.state in CLOSED_FOR_GOOD for a in registry.of_message(held.task.id, held.message_id))


# -- the end ---------------------------------------------------------------------------


def is_over(registry: Registry, message: Message) -> bool:
    """Whether it is finished for good, or visibly waits for a person."""
    same = registry.of_message(message.task.id, message.id)
    if not same:
        return message.vanished
    if any(attempt.state in CLOSED_FOR_GOOD for attempt in same):
        return True
    recovery = registry.recovery_of(same[-1])
    if recovery is None:  # released: the broker has it again, unless it was one that ended late
        return same[-1].state not in OPEN and (message.vanished or _ended_late(registry, message))
    if recovery.state in WAITS_FOR_A_PERSON:
        return True
    if recovery.state is not RecoveryState.DONE:
        return False
    return recovery.verdict not in BRINGS_BACK or message.vanished or _ended_late(registry, message)


def _ended_late(registry: Registry, message: Message) -> bool:
    """Who ran it adopted what came back, ended it and acknowledged it: a worker that had not heard that it is
    declared, wherever else it ran meanwhile, or one that had let it run by its journal."""
    late = [
        registry.truth[event.incarnation.lstrip(AFTERLIFE)].name
        for event in registry._events
        if event.incarnation and event.kind == "late_finish" and event.task_id == message.task.id
        and event.data.get("state") in CLOSED_FOR_GOOD
    ]  # fmt: skip
    return any(name in message.acknowledged_by for name in late)


def unfinished(site: Site) -> Iterator[str]:
    """What keeps the schedule from its end, in sentences."""
    registry = site.registry
    for a in chain.from_iterable(registry._attempts.values()):
        if a.state in OPEN:
            yield f"{a.message_id} is {a.state}"
    for message in site.broker.messages.values():
        if not is_over(registry, message):
            same = registry.of_message(message.task.id, message.id)
            state = ", ".join(attempt.state for attempt in same) or "never claimed"
            recovery = registry.recovery_of(same[-1]) if same else None
            about = f", its recovery {recovery.state} by {recovery.verdict}" if recovery else ""
            yield f"{message.id} is not over: {state}{about}"
    for r in registry._recoveries.values():
        if r.state in UNDER_WAY:
            yield f"the recovery of {r.message_id} is {r.state}"
    for node in site.nodes:
        for name, file in node.host.disk.files.items():
            if file.data:
                yield f"the journal {name} is not replayed"


def final(site: Site) -> None:
    """What must hold once all is quiet."""
    registry, history = site.registry, site.world.history
    for task_id, attempts in registry._attempts.items():
        for attempt in attempts:
            recovery = registry.recovery_of(attempt)
            if attempt.state is State.LOST and recovery is None:
                history.broken("I6", f"attempt {attempt.number} of {task_id} is lost, without a recovery")
            if (
                recovery is not None
                and recovery.verdict is not None
                and not any(
                    event.kind == "verdict" and (event.task_id, event.number) == (task_id, attempt.number)
                    for event in registry._events
                )
            ):
                history.broken("I8", f"the verdict on attempt {attempt.number} of {task_id} has no event")
        _callers(site, task_id, attempts[-1])
    _records(site)


def _callers(site: Site, task_id: str, latest: Attempt) -> None:
    recovery = site.registry.recovery_of(latest)
    failed = recovery is not None and recovery.verdict is VerdictKind.FAIL
    ended = latest.state in (State.SUCCEEDED, State.FAILED) or failed
    if any(one.vanished for one in site.broker.messages.values() if one.task.id == task_id):
        return  # a retry that nobody has on record: its callers read that it retries
    if ended and latest.retries == 0 and site.backend.states.get(task_id) not in ("SUCCESS", "FAILURE"):
        site.world.history.broken("callers", f"{task_id} is over, and its callers wait for ever")


def _records(site: Site) -> None:
    """I11: what a worker that still lives has seen the end of is on record as that, unless it was fenced."""
    alive = {life.name: life for life in site.lives() if life.process.alive and len(life.incarnations) == 1}
    for bodies in site.world.history.bodies.values():
        for body in bodies:
            if body.ended is None or body.process not in alive:
                continue
            one = _attempt(site.registry, body)
            overlapped = (body.incarnation, body.seq) in site.registry._once
            if (one is None and not overlapped) or (one is not None and one.state in OPEN):
                site.world.history.broken(
                    "I11", f"the end of {body.message.id} in {body.process} is not on record"
                )
