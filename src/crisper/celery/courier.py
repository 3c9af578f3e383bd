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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

from celery import Celery
from celery.utils.log import get_logger

from crisper.celery.brokers import broker_of
from crisper.celery.brokers.base import Broker
from crisper.celery.claims import exchanges_of
from crisper.celery.desk import Desk, WireDesk
from crisper.celery.results import (
    ChordTaken,
    complete_chord,
    store_lost,
    store_revoked,
    stored_state,
    stored_states,
)
from crisper.celery.rollcall import consumed_blindly, in_their_hands
from crisper.celery.traces import observe
from crisper.celery.upkeep import PERIODS_UNKEPT, keep_every
from crisper.core.message import Kept, delivery_count, unpack
from crisper.core.model import Attempt, Case, Look, Recovery, Unclaimed
from crisper.core.states import OnLost, RecoveryState, VerdictKind
from crisper.core.verdict import KILLED_FOR, RESEND, Facts, InBroker, Judgement, Verdict, judge, stopped_by
from crisper.errors import CrisperError, MessageDamaged, RegistryUnreachable
from crisper.recorder.cases import case_from_wire
from crisper.settings import Settings

logger = get_logger(__name__)

#: Before another try at a case that could not be carried out, in ms; doubled per try.
RETRY_MS, RETRY_MOST_MS = 1_000, 60_000
#: Between two looks at a chord whose body is in another process' hands. It must be out of them before the
#: gate grants what nobody has decided (`core.gate.UNDECIDED_MS`): the body would run again.
CHORD_MS = 2_000
#: Verdicts after which nothing of the task is left to run.
_OVER = (VerdictKind.SETTLED, VerdictKind.EXPIRED, VerdictKind.REVOKED)
#: Cases whose verdicts are committed together: no more than are carried out within so many seconds,
#: because others take a case over whose courier is late (`store.cases.CASE_MS`).
BATCH, BATCH_SECONDS = 50, 5.0
#: So many seconds' worth of recoveries may be carried out at once.
BUCKET_SECONDS = 0.1
_HANDED_BACK, _SENT_AGAIN = (VerdictKind.HAND_BACK,), (VerdictKind.RESEND, VerdictKind.RECOVER)
#: A parent gives back a lost child's message within milliseconds. Where the broker can be asked, we look
#: after this whether it did, or died before it could.
LOOK_SECONDS = 2.0
#: A published message has vanished when it was looked for so often in a row and found nowhere; while it
#: waits it is looked for again after half its age, at most so many ms.
LOOKS, LOOK_MOST_MS = 2, 600_000


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
        # Of the batch in hand:
        self._taken: frozenset[str] = frozenset()
        self._states: dict[str, str | None] = {}
        self._kept_of: dict[_Place, Kept | MessageDamaged] = {}

    def carry(self, cases: Iterable[Case]) -> list[Done]:
        """Judge the cases and do what the verdicts say, the earliest first.

        Never raises for a case's own trouble; raises `RegistryUnreachable`.
        """
        left, size = list(cases), max(1, min(BATCH, int(self._settings.recovery_rate * BATCH_SECONDS)))
        return [done for at in range(0, len(left), size) for done in self._carry(left[at : at + size])]

    def _carry(self, cases: Sequence[Case]) -> list[Done]:
        """Every verdict of the batch is committed before the first is carried out."""
        done: dict[_Place, Done] = {}
        self._kept_of = {}
        self._taken = self._in_other_hands(cases)
        self._look_ahead(cases)
        judged: list[tuple[Case, Judgement]] = []
        for case in cases:
            with self._delayed(case.recovery, done):
                judged.append((case, self._judge(case)))
        decided = self._commit(judged)
        ready = [
            _Ready(case, recovery, judgement.verdict)
            for (case, judgement), recovery in zip(judged, decided, strict=True)
            if recovery is not None
        ]
        brought = self._bring_back(ready)
        carried = []
        for (case, judgement), recovery in zip(judged, decided, strict=True):
            with self._delayed(recovery or case.recovery, done):
                one = done[_place(case.recovery)] = self._do(case, recovery, judgement.verdict, brought)
                if one.carried_out and recovery is not None:
                    carried.append(recovery)
        # Where this comes too late, the gate saw the message first and has closed the recovery.
        self._desk.complete(carried, by=self.name)
        self._kept_of = {}
        return [done[_place(case.recovery)] for case in cases]

    def _look_ahead(self, cases: Sequence[Case]) -> None:
        self._states = {}
        try:
            self.broker.look_ahead([case.attempt for case in cases])
        except Exception:  # each case finds out by itself, and is delayed for it
            self._drop_broker()
        with contextlib.suppress(Exception):
            asked = [case for case in cases if not _is_decided(case.recovery) and _may_have_result(case)]
            self._states = stored_states(self._app, [(case, self._kept(case)) for case in asked])

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
            if isinstance(exc, ChordTaken):
                delay = CHORD_MS
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
        facts = self.facts(case)
        verdict = judge(facts)
        if verdict.kind is VerdictKind.SETTLED and facts.backend_state and not facts.child_said:
            # Before it is closed for good: whoever dies here leaves it to another courier.
            complete_chord(self._app, case, self._kept(case))
        return Judgement(recovery, verdict, self._grace(verdict, case))

    def _do(
        self, case: Case, decided: Recovery | None, verdict: Verdict, brought: Mapping[_Place, _Outcome]
    ) -> Done:
        task_id, number = _place(case.recovery)
        if decided is None:
            return Done(task_id, number, None, "somebody else decided it", False)
        if (task_id, number) in brought:
            carried_out = self._brought(decided, brought[task_id, number])
        else:
            self._pace(1)
            carried_out = self._act(case, decided, verdict)
        observe(case, verdict, carried_out=carried_out)
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

    # -- what nobody has claimed ----------------------------------------------

    def look_for(self, messages: Sequence[Unclaimed]) -> None:
        """Find out whether the published messages are still in the broker, and declare what has vanished.

        Raises `RegistryUnreachable`, and what the broker's client raises.
        """
        grace_ms = int(self._settings.redelivery_grace * 1000)
        try:
            located = self.broker.locate(messages, unkept=self._unkept())
            missing = [one for one in messages if located[one.message_id] is False]
            blind = self._taken_blindly({one.queue for one in missing if one.missing})
        except Exception:
            self._drop_broker()
            raise
        gone = {
            (one.message_id, one.until)
            for one in missing
            if one.missing >= LOOKS - 1 and one.queue not in blind
        }
        looks = []
        for one in messages:
            if (one.message_id, one.until) in gone:
                continue
            if located[one.message_id] is False and one.queue not in blind:
                looks.append(Look(one.message_id, one.until, one.missing + 1, grace_ms // 3))
            else:  # the longer it has waited, the longer it may
                looks.append(
                    Look(one.message_id, one.until, 0, max(grace_ms, min(one.age_ms // 2, LOOK_MOST_MS)))
                )
        evidence = {"how": "looked for in the broker", "looks": LOOKS}
        self._desk.looked(looks, sorted(gone), by=self.name, evidence=evidence, due_in_ms=2 * grace_ms)

    def put_off(self, messages: Sequence[Unclaimed]) -> None:
        """They could not be looked for."""
        grace_ms = int(self._settings.redelivery_grace * 1000)
        looks = [Look(one.message_id, one.until, one.missing, grace_ms) for one in messages]
        self._desk.looked(looks, [], by=self.name, evidence={}, due_in_ms=0)

    def _unkept(self) -> float:
        return PERIODS_UNKEPT * keep_every(self._settings, self.broker) + self._settings.heartbeat_interval

    def _taken_blindly(self, queues: set[str]) -> set[str]:
        """Queues that a node without a record consumes from: what is not there may run on it."""
        if not queues:
            return set()
        return queues & consumed_blindly(self._app, self.broker.connection, self._desk.nodes())

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
            on_lost=OnLost.RESEND if loss.get(RESEND) else attempt.on_lost,
            losses=recovery.losses,
            loss_budget=attempt.loss_budget,
            kept=isinstance(kept, Kept),
            task_known=self._known(attempt),
            queue_gone=self._queue_gone(case),
            why_not_kept=None if isinstance(kept, Kept) else str(kept),
            in_broker=self._in_broker(case),
            child_said=loss.get("child_said"),
            killed_for=loss.get(KILLED_FOR),
            backend_state=self._backend_state(case, kept),
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

    def _backend_state(self, case: Case, kept: Kept | MessageDamaged) -> str | None:
        if not _may_have_result(case):
            return None
        if case.attempt.task_id in self._states:
            return self._states[case.attempt.task_id]
        return stored_state(self._app, case, kept)

    def _known(self, attempt: Attempt) -> bool:
        """False if we consume from its queue and do not know its task: we would discard it ourselves."""
        return attempt.name in self._app.tasks or attempt.queue not in self._app.amqp.queues.consume_from

    def _queue_gone(self, case: Case) -> bool:
        """Whether it came by a fanout, to a queue that this app does not have: each worker of a broadcast
        names its own anew. A pool process that died has left its worker, and the queue, alive."""
        kept, queues = self._kept(case), self._app.amqp.queues
        if not isinstance(kept, Kept) or case.recovery.cause == "child" or case.attempt.queue in queues:
            return False
        bound = (exchange for queue in queues.values() for exchange in exchanges_of(queue))
        return any(one.type == "fanout" and one.name == kept.exchange for one in bound)

    def _kept(self, case: Case) -> Kept | MessageDamaged:
        """Read once, as long as its batch is in hand."""
        place = _place(case.recovery)
        if place not in self._kept_of:
            try:
                self._kept_of[place] = unpack(case.message)
            except MessageDamaged as exc:
                self._kept_of[place] = exc
        return self._kept_of[place]

    def _in_broker(self, case: Case) -> InBroker:
        if case.recovery.cause == "child" and case.attempt.acks_late and not case.overdue:
            # Its own parent lived, held the delivery, and gives it back, unless it dies now too.
            return InBroker.REQUEUES
        found = self.broker.find(case.attempt, case.recovery)
        return InBroker.TAKEN if found is InBroker.REQUEUES and case.attempt.task_id in self._taken else found

    def _in_other_hands(self, cases: Sequence[Case]) -> frozenset[str]:
        """Tasks that nobody has claimed within the grace, because workers without Crisper have them."""
        overdue = [case.attempt.task_id for case in cases if case.overdue and not _is_decided(case.recovery)]
        try:
            if not overdue or self.broker.tells:
                return frozenset()
            return in_their_hands(self._app, self.broker.connection, overdue)
        except Exception as exc:
            self._drop_broker()
            logger.warning("crisper: the workers could not be asked what they have: %s", exc)
            return frozenset()

    def _revoked(self, task_id: str) -> bool:
        from celery.worker import state

        return task_id in state.revoked

    # -- do -------------------------------------------------------------------

    def _bring_back(self, ready: Sequence[_Ready]) -> dict[_Place, _Outcome]:
        """Hand back and send again what is to be, in few calls: for each whether it was, or what went wrong.

        As many at once as the bucket holds.
        """
        size = max(1, int(self._settings.recovery_rate * BUCKET_SECONDS))
        outcomes: dict[_Place, _Outcome] = {}
        for kinds, bring in ((_HANDED_BACK, self._hand_back), (_SENT_AGAIN, self._send_again)):
            these = [one for one in ready if one.verdict.kind in kinds]
            for some in (these[at : at + size] for at in range(0, len(these), size)):
                self._pace(len(some))
                outcomes.update(zip((_place(one.decided) for one in some), bring(some), strict=True))
        return outcomes

    def _hand_back(self, ready: Sequence[_Ready]) -> Sequence[_Outcome]:
        try:
            return self.broker.hand_back_all([one.case.attempt for one in ready])
        except Exception as exc:
            return [exc] * len(ready)

    def _send_again(self, ready: Sequence[_Ready]) -> Sequence[_Outcome]:
        outcomes: dict[_Place, _Outcome] = {_place(one.decided): self._unsendable(one.case) for one in ready}
        these = [one for one in ready if outcomes[_place(one.decided)] is None]
        messages = [(self._kept(one.case), one.case.attempt) for one in these]
        try:
            sent = self.broker.resend_all(cast("list[tuple[Kept, Attempt]]", messages)) if messages else []
        except Exception as exc:
            sent = [exc] * len(these)
        outcomes.update({_place(one.decided): why or True for one, why in zip(these, sent, strict=True)})
        return [outcomes[_place(one.decided)] for one in ready]

    def _unsendable(self, case: Case) -> Exception | None:
        if not self._known(case.attempt):
            return CrisperError(f"no task {case.attempt.name!r} is known here, so it would be discarded")
        kept = self._kept(case)
        return None if isinstance(kept, Kept) else kept

    def _brought(self, decided: Recovery, outcome: _Outcome) -> bool:
        if isinstance(outcome, Exception):
            raise outcome
        if not outcome:  # it moved meanwhile: read again, try again while the fence holds
            self._desk.give_up_case(decided, by=self.name, why="its entry moved", due_in_ms=0)
        return bool(outcome)

    def _act(self, case: Case, decided: Recovery, verdict: Verdict) -> bool:
        match verdict.kind:
            case VerdictKind.FAIL:
                store_lost(self._app, case, self._kept(case), verdict.reason)
            case VerdictKind.REVOKED:
                by_celery = bool(verdict.evidence.get("revoked"))  # its own revoke does not say who
                why = "revoked" if by_celery else stopped_by(decided.decided_by or "", verdict.reason)
                store_revoked(self._app, case, self._kept(case), why)
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

    def _pace(self, count: int) -> None:
        """A token bucket, full at a tenth of a second's worth, or at one."""
        now, rate = time.monotonic(), self._settings.recovery_rate
        self._next_at = max(self._next_at, now - BUCKET_SECONDS) + count / rate
        if self._next_at > now:
            time.sleep(self._next_at - now)


class _Ready(NamedTuple):
    """A case whose verdict is committed."""

    case: Case
    decided: Recovery
    verdict: Verdict


#: Whether a message was brought back, or why not.
_Outcome = bool | Exception | None
_Place = tuple[str, int]


def _place(recovery: Recovery) -> _Place:
    return recovery.task_id, recovery.number


def _may_have_result(case: Case) -> bool:
    """What never ran has none; but what vanished may have run where nobody keeps a record."""
    vanished = case.recovery.cause.startswith("vanished")
    return not case.finished_before and (case.attempt.ran or vanished or case.overdue)


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
        connection = app.connection_for_write()
        self._outages = (*connection.connection_errors, *connection.channel_errors, CrisperError)
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._thread: threading.Thread | None = None

    def receive(self, cases: list[dict[str, Any]]) -> None:
        """Cases arrived. On the loop's thread, which this does not hold up."""
        self._give(lambda: self._carry(cases))

    def look_for(self, messages: list[tuple[Any, ...]]) -> None:
        """Published messages that nobody has claimed. On the loop's thread."""
        self._give(lambda: self._look_for([Unclaimed(*plain) for plain in messages]))

    def stop(self) -> None:
        """What is not done is taken by another courier: we are not alive any more."""
        self._jobs.put(None)

    def _give(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="crisper-courier", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
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

    def _look_for(self, messages: list[Unclaimed]) -> None:
        try:
            self._courier.look_for(messages)
        except self._outages as exc:
            logger.warning("crisper: published messages were not looked for: %s", exc)
            self._put_off(messages)
        except Exception:
            self.on_error("looking for published messages")
            self._put_off(messages)

    def _put_off(self, messages: list[Unclaimed]) -> None:
        """Looked for again soon; if not even this can be said, in a minute."""
        with contextlib.suppress(CrisperError):
            self._courier.put_off(messages)
