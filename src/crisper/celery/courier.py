"""The courier: gathers the facts about a lost attempt, commits the verdict, carries it out.

The same code runs in a worker's parent, off its loop, with a desk at the far
end of the wire, and in the command line with the store itself as its desk.
Verdicts are committed before anything is done, so a crash at any step repeats
at most a publish, and the gate refuses the copy.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from celery import Celery
from celery.utils.log import get_logger

from crisper.celery.brokers import broker_of
from crisper.celery.brokers.base import Broker
from crisper.celery.link import Link
from crisper.celery.results import store_lost, stored_state
from crisper.core.message import Kept, unpack
from crisper.core.model import Attempt, Case, Recovery
from crisper.core.states import VerdictKind
from crisper.core.verdict import Facts, InBroker, Verdict, judge
from crisper.errors import CrisperError, MessageDamaged, RegistryUnreachable
from crisper.recorder import wire
from crisper.recorder.cases import case_from_wire, recovery_from_wire, recovery_to_wire
from crisper.settings import Settings

logger = get_logger(__name__)

#: Before another try at a case that could not be carried out, in ms; doubled per try.
RETRY_MS, RETRY_MOST_MS = 1_000, 60_000
#: Verdicts after which nothing of the task is left to run.
_OVER = (VerdictKind.SETTLED, VerdictKind.EXPIRED, VerdictKind.REVOKED)
#: How long the courier waits for the registry's answer over the wire, in seconds.
ANSWER_SECONDS = 30.0


class Desk(Protocol):
    """Where the courier gets its decisions on record."""

    def decide(
        self, recovery: Recovery, verdict: Verdict, *, by: str, due_in_ms: int | None
    ) -> Recovery | None: ...

    def complete(self, recovery: Recovery, *, by: str, data: dict[str, Any]) -> bool: ...

    def give_up_case(self, recovery: Recovery, *, by: str, why: str, due_in_ms: int) -> bool: ...


class Done(NamedTuple):
    """What became of one case."""

    task_id: str
    number: int
    verdict: VerdictKind | None
    reason: str
    carried_out: bool


class Courier:
    """Carries cases out one by one, under a token bucket. Used by one thread."""

    def __init__(self, app: Celery, settings: Settings, desk: Desk, *, name: str) -> None:
        self._app, self._settings, self._desk, self.name = app, settings, desk, name
        self._broker: Broker | None = None
        self._next_at = 0.0
        self._tries: dict[tuple[str, int], int] = {}

    def carry(self, case: Case) -> Done:
        """Judge one case and do what the verdict says. Never raises for the case's own trouble."""
        self._pace()
        recovery = case.recovery
        try:
            return self._carry(case)
        except RegistryUnreachable:
            raise
        except Exception as exc:
            self._drop_broker()
            tries = self._tries[recovery.task_id, recovery.number] = (
                self._tries.get((recovery.task_id, recovery.number), 0) + 1
            )
            delay = min(RETRY_MOST_MS, RETRY_MS * 2 ** min(tries - 1, 10))
            why = str(exc) if isinstance(exc, CrisperError) else f"{type(exc).__name__}: {exc}"
            logger.warning("crisper: recovery of %s is delayed: %s", recovery.task_id, why)
            self._desk.give_up_case(recovery, by=self.name, why=why, due_in_ms=delay)
            return Done(recovery.task_id, recovery.number, None, why, False)

    def _carry(self, case: Case) -> Done:
        recovery = case.recovery
        if recovery.decided_at is not None and recovery.state.value == "decided":
            assert recovery.verdict is not None
            verdict = Verdict(recovery.verdict, recovery.reason or "", recovery.evidence)
            decided: Recovery | None = recovery  # a courier before us decided, and died or was late
        else:
            verdict = judge(self.facts(case))
            decided = self._desk.decide(recovery, verdict, by=self.name, due_in_ms=self._grace(verdict, case))
        if decided is None:
            return Done(recovery.task_id, recovery.number, None, "somebody else decided it", False)
        done = self._act(case, decided, verdict)
        self._tries.pop((recovery.task_id, recovery.number), None)
        logger.info("crisper: %s attempt %d: %s, because %s", recovery.task_id, recovery.number,
                    verdict.kind.value, verdict.reason)  # fmt: skip
        return Done(recovery.task_id, recovery.number, verdict.kind, verdict.reason, done)

    def _grace(self, verdict: Verdict, case: Case) -> int | None:
        if verdict.kind is VerdictKind.AWAIT_REDELIVERY:
            return int(self._settings.redelivery_grace * 1000)
        return None

    # -- detect ---------------------------------------------------------------

    def facts(self, case: Case) -> Facts:
        """Everything the rules ask for, gathered from the broker and the result backend."""
        attempt, recovery = case.attempt, case.recovery
        kept = self._kept(case)
        loss = recovery.evidence
        return Facts(
            cause=recovery.cause,
            ran=attempt.ran,
            started=attempt.started_at is not None,
            acks_late=attempt.acks_late,
            on_lost=attempt.on_lost,
            losses=recovery.losses,
            loss_budget=attempt.loss_budget,
            kept=isinstance(kept, Kept),
            task_known=self._known(attempt),
            why_not_kept=None if isinstance(kept, Kept) else str(kept),
            in_broker=self._in_broker(case),
            child_said=loss.get("child_said"),
            backend_state=None
            if case.finished_before or not attempt.ran
            else stored_state(self._app, case, kept),
            superseded=case.superseded,
            expired=_expired(kept),
            revoked=self._revoked(attempt.task_id),
            copy_refused=attempt.copy_refused,
            overdue=case.overdue,
        )

    def _known(self, attempt: Attempt) -> bool:
        """False if we consume from its queue and do not know its task: we would discard it ourselves."""
        return attempt.name in self._app.tasks or attempt.queue not in self._app.amqp.queues.consume_from

    def _kept(self, case: Case) -> Kept | MessageDamaged:
        try:
            return unpack(case.message)
        except MessageDamaged as exc:
            return exc

    def _in_broker(self, case: Case) -> InBroker:
        if case.recovery.cause == "child" and case.attempt.acks_late:
            # Its own parent lived, held the delivery, and has given it back by now.
            return InBroker.REQUEUES
        return self.broker.find(case.attempt, case.recovery)

    def _revoked(self, task_id: str) -> bool:
        from celery.worker import state

        return task_id in state.revoked

    # -- do -------------------------------------------------------------------

    def _act(self, case: Case, decided: Recovery, verdict: Verdict) -> bool:
        match verdict.kind:
            case VerdictKind.HAND_BACK:
                if not self.broker.hand_back(case.attempt):
                    # It moved meanwhile: read again, try again while the fence holds.
                    self._desk.give_up_case(decided, by=self.name, why="its entry moved", due_in_ms=0)
                    return False
            case VerdictKind.RESEND | VerdictKind.RECOVER:
                if not self._known(case.attempt):
                    raise CrisperError(
                        f"no task {case.attempt.name!r} is known here, so it would be discarded"
                    )
                self.broker.resend(unpack(case.message), case.attempt)
            case VerdictKind.FAIL:
                store_lost(self._app, case, self._kept(case), verdict.reason)
            case _:  # deciding it was all there is to do
                self._clear_out(case, verdict)
                return False
        # Where this comes too late, the gate saw the message first and has closed the recovery.
        self._desk.complete(decided, by=self.name, data={"reason": verdict.reason})
        self._clear_out(case, verdict)
        return True

    def _clear_out(self, case: Case, verdict: Verdict) -> None:
        """A copy that the broker still keeps for the dead worker (Redis, for an hour) comes
        to the gate now, which refuses what is over, and what the registry keeps for a person."""
        for_a_person = verdict.kind in (VerdictKind.QUARANTINE, VerdictKind.HOLD, VerdictKind.FAIL)
        kept = case.message.body is not None
        if verdict.kind in _OVER or (for_a_person and kept):
            self.broker.hand_back(case.attempt)

    @property
    def broker(self) -> Broker:
        if self._broker is None:
            self._broker = broker_of(self._app)
        return self._broker

    def _drop_broker(self) -> None:
        if self._broker is not None:
            self._broker.close()
            self._broker = None

    def close(self) -> None:
        self._drop_broker()

    def _pace(self) -> None:
        """A token bucket, full at a tenth of a second's worth."""
        now = time.monotonic()
        self._next_at = max(self._next_at, now - 0.1) + 1 / self._settings.recovery_rate
        if self._next_at > now:
            time.sleep(self._next_at - now)


def _expired(kept: Kept | MessageDamaged) -> bool:
    """Whether the message's own `expires` has passed, by this host's clock, as Celery judges it."""
    if not isinstance(kept, Kept) or not kept.headers.get("expires"):
        return False
    try:
        expires = datetime.fromisoformat(str(kept.headers["expires"]).replace("Z", "+00:00"))
    except ValueError:
        return False
    if expires.tzinfo is None:
        expires = expires.replace(tzinfo=UTC)
    return datetime.now(UTC) > expires


class WireDesk:
    """The desk at the far end of the wire: the recorder's pulse thread."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._references = itertools.count(1)
        self._answers: dict[int, queue.Queue[tuple[bool, Any]]] = {}

    def told(self, item: tuple[Any, ...]) -> None:
        """An answer arrived. On the loop's thread."""
        _, reference, ok, result = item
        waiting = self._answers.pop(reference, None)
        if waiting is not None:
            waiting.put((ok, result))

    def ask(self, verb: str, **arguments: Any) -> Any:
        """From the courier's thread. Raises `RegistryUnreachable` without an answer in time."""
        reference = next(self._references)
        box: queue.Queue[tuple[bool, Any]] = queue.Queue(1)
        self._answers[reference] = box
        self._link.send((wire.ASK, reference, verb, arguments))
        self._link.flush()
        try:
            ok, result = box.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            raise RegistryUnreachable(f"no answer to {verb!r} in {ANSWER_SECONDS:g} s") from None
        finally:
            self._answers.pop(reference, None)
        if not ok:
            raise RegistryUnreachable(str(result))
        return result

    def decide(
        self, recovery: Recovery, verdict: Verdict, *, by: str, due_in_ms: int | None
    ) -> Recovery | None:
        decided = self.ask(
            "decide",
            recovery=recovery_to_wire(recovery),
            verdict=verdict.kind.value,
            reason=verdict.reason,
            evidence=wire.plain(verdict.evidence),
            by=by,
            due_in_ms=due_in_ms,
        )
        return None if decided is None else recovery_from_wire(decided)

    def complete(self, recovery: Recovery, *, by: str, data: dict[str, Any]) -> bool:
        return bool(self.ask("complete", recovery=recovery_to_wire(recovery), by=by, data=data))

    def give_up_case(self, recovery: Recovery, *, by: str, why: str, due_in_ms: int) -> bool:
        plain = recovery_to_wire(recovery)
        return bool(self.ask("give_up", recovery=plain, by=by, why=why, due_in_ms=due_in_ms))


class StoreDesk:
    """The registry itself, for couriers that are no worker."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def decide(
        self, recovery: Recovery, verdict: Verdict, *, by: str, due_in_ms: int | None
    ) -> Recovery | None:
        decided: Recovery | None = self._store.decide(
            recovery, verdict.kind, verdict.reason, wire.plain(verdict.evidence), by=by, due_in_ms=due_in_ms
        )
        return decided

    def complete(self, recovery: Recovery, *, by: str, data: dict[str, Any]) -> bool:
        return bool(self._store.complete(recovery, by=by, data=data))

    def give_up_case(self, recovery: Recovery, *, by: str, why: str, due_in_ms: int) -> bool:
        return bool(self._store.give_up_case(recovery, by=by, why=why, due_in_ms=due_in_ms))


class WorkerCourier:
    """The courier's thread in a worker's parent; started with its first cases."""

    def __init__(self, app: Celery, settings: Settings, desk: WireDesk, *, name: str) -> None:
        self.on_error: Callable[[str], None] = lambda doing: None
        self._desk = desk
        self._courier = Courier(app, settings, desk, name=name)
        self._cases: queue.Queue[list[dict[str, Any]] | None] = queue.Queue()
        self._thread: threading.Thread | None = None

    def receive(self, cases: list[dict[str, Any]]) -> None:
        """Cases arrived. On the loop's thread, which this does not hold up."""
        self._cases.put(cases)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="crisper-courier", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """What is not done is taken by another courier: we are not alive any more."""
        self._cases.put(None)

    def _run(self) -> None:
        while (cases := self._cases.get()) is not None:
            try:
                for plain in cases:
                    self._courier.carry(case_from_wire(plain))
            except CrisperError as exc:
                logger.warning("crisper: recoveries are delayed: %s", exc)
            except Exception:
                self.on_error("carrying out recoveries")
            self._guarded(lambda: self._desk.ask("ready"))
        self._courier.close()

    def _guarded(self, step: Callable[[], Any]) -> None:
        try:
            step()
        except Exception as exc:
            logger.warning("crisper: courier: %s", exc)
