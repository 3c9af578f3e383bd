"""The courier: gathers the facts about a lost attempt, commits the verdict, carries it out.

The same code runs in a worker's parent, off its loop, with a desk at the far
end of the wire, and in the command line with the store itself as its desk.
Verdicts are committed before anything is done, so a crash at any step repeats
at most a publish, and the gate refuses the copy.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from celery import Celery
from celery.utils.log import get_logger

from crisper.celery.brokers import broker_of
from crisper.celery.brokers.base import Broker
from crisper.celery.desk import Desk, WireDesk
from crisper.celery.results import store_lost, stored_state
from crisper.core.message import Kept, delivery_count, unpack
from crisper.core.model import Attempt, Case, Recovery
from crisper.core.states import RecoveryState, VerdictKind
from crisper.core.verdict import Facts, InBroker, Judgement, Verdict, judge
from crisper.errors import CrisperError, MessageDamaged, RegistryUnreachable
from crisper.recorder.cases import case_from_wire
from crisper.settings import Settings

logger = get_logger(__name__)

#: Before another try at a case that could not be carried out, in ms; doubled per try.
RETRY_MS, RETRY_MOST_MS = 1_000, 60_000
#: Verdicts after which nothing of the task is left to run.
_OVER = (VerdictKind.SETTLED, VerdictKind.EXPIRED, VerdictKind.REVOKED)
#: Cases whose verdicts are committed together: no more than are carried out within so many seconds,
#: because others take a case over whose courier is late (`store.sql.CASE_MS`).
BATCH, BATCH_SECONDS = 50, 5.0
#: A parent gives back a lost child's message within milliseconds. Where the broker can be asked, we look
#: after this whether it did, or died before it could.
LOOK_SECONDS = 2.0


class Done(NamedTuple):
    """What became of one case."""

    task_id: str
    number: int
    verdict: VerdictKind | None
    reason: str
    carried_out: bool


class Courier:
    """Carries cases out, a batch at a time, under a token bucket. Used by one thread."""

    def __init__(self, app: Celery, settings: Settings, desk: Desk, *, name: str) -> None:
        self._app, self._settings, self._desk, self.name = app, settings, desk, name
        self._broker: Broker | None = None
        self._next_at = 0.0
        self._tries: dict[tuple[str, int], int] = {}

    def carry(self, cases: Iterable[Case]) -> list[Done]:
        """Judge the cases and do what the verdicts say, the earliest first.

        Never raises for a case's own trouble; raises `RegistryUnreachable`.
        """
        left, size = list(cases), max(1, min(BATCH, int(self._settings.recovery_rate * BATCH_SECONDS)))
        return [done for at in range(0, len(left), size) for done in self._carry(left[at : at + size])]

    def _carry(self, cases: Sequence[Case]) -> list[Done]:
        """Every verdict of the batch is committed before the first is carried out."""
        done: dict[_Place, Done] = {}
        judged: list[tuple[Case, Judgement]] = []
        for case in cases:
            with self._delayed(case.recovery, done):
                judged.append((case, self._judge(case)))
        carried = []
        for (case, judgement), recovery in zip(judged, self._commit(judged), strict=True):
            with self._delayed(recovery or case.recovery, done):
                one = done[_place(case.recovery)] = self._do(case, recovery, judgement.verdict)
                if one.carried_out and recovery is not None:
                    carried.append(recovery)
        # Where this comes too late, the gate saw the message first and has closed the recovery.
        self._desk.complete(carried, by=self.name)
        return [done[_place(case.recovery)] for case in cases]

    def _commit(self, judged: Sequence[tuple[Case, Judgement]]) -> list[Recovery | None]:
        """Each recovery as it stands decided; None where somebody else was first."""
        fresh = [judgement for case, judgement in judged if not _is_decided(case.recovery)]
        new = iter(self._desk.decide(fresh, by=self.name))
        return [case.recovery if _is_decided(case.recovery) else next(new) for case, _ in judged]

    @contextlib.contextmanager
    def _delayed(self, recovery: Recovery, done: dict[_Place, Done]) -> Iterator[None]:
        """A case that cannot be carried out now is tried again, later and later, and holds up no other."""
        try:
            yield
        except RegistryUnreachable:
            raise
        except Exception as exc:
            self._drop_broker()
            place = _place(recovery)
            tries = self._tries[place] = self._tries.get(place, 0) + 1
            delay = min(RETRY_MOST_MS, RETRY_MS * 2 ** min(tries - 1, 10))
            why = str(exc) if isinstance(exc, CrisperError) else f"{type(exc).__name__}: {exc}"
            logger.warning("crisper: recovery of %s is delayed: %s", recovery.task_id, why)
            self._desk.give_up_case(recovery, by=self.name, why=why, due_in_ms=delay)
            done[place] = Done(*place, None, why, False)

    def _judge(self, case: Case) -> Judgement:
        recovery = case.recovery
        if _is_decided(recovery):  # by a courier before us, who died or was late, or by a person
            assert recovery.verdict is not None
            verdict = Verdict(recovery.verdict, recovery.reason or "", recovery.evidence)
            return Judgement(recovery, verdict)
        verdict = judge(self.facts(case))
        return Judgement(recovery, verdict, self._grace(verdict, case))

    def _do(self, case: Case, decided: Recovery | None, verdict: Verdict) -> Done:
        task_id, number = _place(case.recovery)
        if decided is None:
            return Done(task_id, number, None, "somebody else decided it", False)
        self._pace()
        carried_out = self._act(case, decided, verdict)
        self._tries.pop((task_id, number), None)
        logger.info("crisper: %s attempt %d: %s, because %s", task_id, number,
                    verdict.kind.value, verdict.reason)  # fmt: skip
        return Done(task_id, number, verdict.kind, verdict.reason, carried_out)

    def _grace(self, verdict: Verdict, case: Case) -> int | None:
        if verdict.kind is not VerdictKind.AWAIT_REDELIVERY:
            return None
        seconds = self._settings.redelivery_grace
        if case.recovery.cause == "child" and not case.overdue and self.broker.tells:
            seconds = min(seconds, LOOK_SECONDS)
        return int(seconds * 1000)

    # -- detect ---------------------------------------------------------------

    def facts(self, case: Case) -> Facts:
        """Everything the rules ask for, gathered from the broker and the result backend."""
        attempt, recovery = case.attempt, case.recovery
        kept = self._kept(case)
        loss = recovery.evidence
        rules = self.broker.rules(attempt.queue)
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
            # Of a delivery that was adopted only the worker itself could tell.
            delivery_count=max(loss.get("delivery_count") or 0, delivery_count(case.message) or 0) or None,
            delivery_limit=rules.delivery_limit if rules else None,
            dead_letter_exchange=rules.dead_letter_exchange if rules else None,
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
        if case.recovery.cause == "child" and case.attempt.acks_late and not case.overdue:
            # Its own parent lived, held the delivery, and gives it back, unless it dies now too.
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
            case VerdictKind.AWAIT_REDELIVERY:
                self.broker.let_go(case.attempt, case.recovery)
                return False
            case _:  # deciding it was all there is to do
                self._clear_out(case, verdict)
                return False
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
            self._broker = broker_of(self._app, self._settings)
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


_Place = tuple[str, int]


def _place(recovery: Recovery) -> _Place:
    return recovery.task_id, recovery.number


def _is_decided(recovery: Recovery) -> bool:
    return recovery.state is RecoveryState.DECIDED


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


class WorkerCourier:
    """The courier's thread in a worker's parent; started with its first job."""

    def __init__(self, app: Celery, settings: Settings, desk: WireDesk, *, name: str) -> None:
        self.on_error: Callable[[str], None] = lambda doing: None
        self._desk = desk
        self._courier = Courier(app, settings, desk, name=name)
        self._arrived: queue.Queue[list[dict[str, Any]] | None] = queue.Queue()
        self._thread: threading.Thread | None = None

    def receive(self, cases: list[dict[str, Any]]) -> None:
        """Cases arrived. On the loop's thread, which this does not hold up."""
        self._arrived.put(cases)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="crisper-courier", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """What is not done is taken by another courier: we are not alive any more."""
        self._arrived.put(None)

    def _run(self) -> None:
        while (cases := self._arrived.get()) is not None:
            self._carry(cases)
        self._courier.close()

    def _carry(self, cases: list[dict[str, Any]]) -> None:
        try:
            self._courier.carry(map(case_from_wire, cases))
        except CrisperError as exc:
            logger.warning("crisper: recoveries are delayed: %s", exc)
        except Exception:
            self.on_error("carrying out recoveries")
        try:
            self._desk.ask("ready")
        except Exception as exc:
            logger.warning("crisper: courier: %s", exc)
