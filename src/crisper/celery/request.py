"""The Request that records: mixed into every task's own Request class at worker start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery import states
from celery.exceptions import Ignore, Reject, Retry, TaskRevokedError
from celery.utils.log import get_logger
from celery.worker import state as worker_state
from celery.worker.request import Request
from kombu.exceptions import DecodeError
from kombu.transport.virtual import Channel as VirtualChannel

from crisper.celery.deliveries import Deliveries
from crisper.celery.held import Held
from crisper.celery.inside import OUTSIDE
from crisper.core.states import State
from crisper.core.verdict import RESEND

logger = get_logger(__name__)

#: The deliveries of the worker in this process; None in pool children and clients.
_deliveries: Deliveries | None = None

#: Before the result backend is told again of a stopped task, if it did not take it, or forgot it.
TELL_AGAIN_SECONDS = 5.0

#: Of the process, not of the body.
_DEATHS = (WorkerLostError, SystemExit, KeyboardInterrupt, Terminated)


def use(deliveries: Deliveries | None) -> None:
    global _deliveries
    _deliveries = deliveries


class RecordedRequest(Request):
    """Claims at receipt, waits for the claim before dispatch, records the outcome before the ack.

    An error of ours leaves the request as Celery's own: it is counted and logged.
    """

    acknowledged: bool
    _crisper: Held | None = None
    _crisper_dropped = False
    _crisper_given = False  # to the pool: what is raised from then on is Celery's
    _crisper_instead: Request | None = None  # the running request that adopted our delivery
    _crisper_due: tuple[State, str | None] | None = None  # how it ends, unless Celery finds otherwise

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Drop what `create_request_cls` generates over us (celery/worker/request.py, 5.5 to 5.7):
        its `execute_using_pool` and `on_success` never call their base class."""
        super().__init_subclass__(**kwargs)
        if cls.__module__ == "celery.worker.request":
            for generated in ("execute_using_pool", "on_success"):
                if generated in cls.__dict__:
                    delattr(cls, generated)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if _deliveries is not None:
            try:
                held = _deliveries.claim(self)
                if not self._crisper_dropped:
                    self._crisper = held
            except Exception:
                _deliveries.count_error("claiming")

    # -- to the pool ----------------------------------------------------------

    def revoked(self) -> bool:
        """A delivery that a running attempt adopted is that one's to acknowledge: Celery would end
        it here, expired or revoked, although its task runs."""
        return False if self._crisper_dropped else bool(super().revoked())

    def execute_using_pool(self, pool: Any, **kwargs: Any) -> Any:
        held = self._crisper
        if self._crisper_dropped:
            self._crisper_leave()
            raise TaskRevokedError(self.id)
        if held is None or _deliveries is None:
            return super().execute_using_pool(pool, **kwargs)
        try:
            return _deliveries.dispatch(held, pool)
        except TaskRevokedError:
            raise
        except Exception:
            if self._crisper_given:
                raise  # Celery's own
            _deliveries.count_error("dispatching")
            held.runs_without_us()
            return self._crisper_run(pool)

    def _crisper_leave(self) -> None:
        """Celery listed us as reserved; the attempt belongs to another request of the same id."""
        worker_state.reserved_requests.discard(self)
        if self._crisper_instead is not None:
            worker_state.requests[self.id] = self._crisper_instead

    def _crisper_run(self, pool: Any) -> Any:
        self._crisper_given = True
        if self._crisper is not None and _deliveries is not None:
            pool = _deliveries.inside.around(pool, self._crisper)
        return super().execute_using_pool(pool)

    # -- from the pool --------------------------------------------------------

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        if self._crisper is not None and _deliveries is not None:
            try:
                _deliveries.accepted(self._crisper, pid)
            except Exception:
                _deliveries.count_error("recording a start")
        super().on_accepted(pid, time_accepted)

    def on_success(self, failed__retval__runtime: Any, **kwargs: Any) -> Any:
        failed, told, runtime = failed__retval__runtime
        if failed == OUTSIDE:
            return self.on_failure(told)
        if not failed:
            if self._crisper_muted(State.SUCCEEDED, runtime=runtime):
                return None
            self._crisper_finish(State.SUCCEEDED, runtime=runtime)
        return super().on_success(failed__retval__runtime, **kwargs)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        exc = exc_info.exception
        if isinstance(exc, ExceptionWithTraceback):
            exc = exc.exc
        try:
            if self._crisper_muted(*(() if isinstance(exc, _DEATHS) else self._crisper_outcome(exc))):
                return None
            if self._crisper is not None and self._crisper_ended(exc):
                return None
        except Exception:
            if _deliveries is not None:
                _deliveries.count_error("recording a failure")
        try:
            return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
        finally:
            self._crisper_end_as_due()

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        if not soft:
            kept = not self.task.acks_late or _acks(self.task, timed_out=True)
            outcome = State.FAILED if kept else State.REJECTED, f"TimeLimitExceeded({timeout})"
            if self._crisper_muted(*outcome):
                return None
            self._crisper_finish(*outcome)
        return super().on_timeout(soft, timeout)

    def _crisper_ended(self, exc: BaseException) -> bool:
        """Record how the body ended; True if nothing is left for Celery to do."""
        if isinstance(exc, _DEATHS):
            if self._already_cancelled:
                return self._crisper_cancelled()
            if self._crisper is not None and self._crisper.resend:
                return self._crisper_child_lost(exc)
            if self._crisper is not None and self._crisper.stopped:
                if not self._already_revoked:
                    self._crisper_revoke(terminated=True, signum=str(exc))
                return True
            if self._already_revoked or isinstance(exc, Terminated):
                return False  # a person's revoke: recorded where Celery announces it
            if getattr(self.task, "retry_on_worker_lost", False):
                self._crisper_due = self._crisper_outcome(exc)
                return False
            return self._crisper_child_lost(exc)
        state, reason = self._crisper_outcome(exc)
        self._crisper_finish(state, reason)
        return False

    def _success_was_stored(self) -> Any:
        """Celery 5.7 asks, of a task whose process died, before it retries or fails it."""
        stored = super()._success_was_stored()
        if stored and self._crisper_due is not None:
            self._crisper_due = State.SUCCEEDED, "its process died after its result was stored"
        return stored

    def _retry_worker_lost(self, exc: BaseException, exc_info: Any) -> bool:
        """Celery 5.7, `retry_on_worker_lost`: publishes the retry and acknowledges; False if it could not."""
        otherwise, self._crisper_due = self._crisper_due, (State.RETRIED, f"{type(exc).__name__}: {exc}")
        retried = bool(super()._retry_worker_lost(exc, exc_info))
        if not retried:
            self._crisper_due = otherwise
        return retried

    def _crisper_end_as_due(self) -> None:
        if self._crisper_due is not None:
            self._crisper_finish(*self._crisper_due)

    def _crisper_outcome(self, exc: BaseException) -> tuple[State, str]:
        reason = f"{type(exc).__name__}: {exc}"[:1000]
        if isinstance(exc, Retry):
            return State.RETRIED, reason
        if isinstance(exc, Reject):
            return State.REJECTED, reason
        if isinstance(exc, Ignore):
            return State.SUCCEEDED, "ignored"
        timed_out = isinstance(exc, TimeLimitExceeded)
        acked = not self.task.acks_late or _acks(self.task, timed_out=timed_out)
        return (State.FAILED if acked else State.REJECTED), reason

    def _crisper_cancelled(self) -> bool:
        """Celery itself stopped the body: a cold shutdown, or a lost connection."""
        held = self._crisper
        if held is None or _deliveries is None:
            return False
        if not held.acks_late and held.accepted:
            _deliveries.child_lost(
                held, {"how": "stopped by a cold shutdown"}, counted=False, then=lambda kind: None
            )
        elif not worker_state.should_terminate and not _deliveries._closing():
            self._crisper_finish(State.RELEASED, "cancelled by Celery")
        worker_state.task_ready(self)
        return True

    def _crisper_child_lost(self, exc: BaseException) -> bool:
        """A pool process died. Celery would store a failure, or requeue without limit."""
        held = self._crisper
        if held is None or _deliveries is None:
            return False
        worker_state.task_ready(self)
        shutting = bool(worker_state.should_terminate)
        pid = self.worker_pid if _deliveries._is_prefork() else _deliveries.link.pid
        evidence = {"how": "process died", "pid": pid, "error": str(exc)}
        if held.resend:
            evidence |= {"how": "ended", "why": held.stopped, RESEND: True}
        if held.unnoticed_ms:
            evidence["unnoticed"] = (
                f"its recorder saw it gone for {held.unnoticed_ms / 1000:.1f} s before its pool"
            )
        if count := held.delivery_count:
            evidence["delivery_count"] = count
        _deliveries.child_lost(held, evidence, counted=not shutting, then=self._crisper_after_loss)
        return True

    def _crisper_after_loss(self, kind: str) -> None:
        """The loss is durable. What was not acknowledged goes back: the gate decides about it."""
        if not self.task.acks_late:
            return
        if kind == "closed":
            self._crisper_acknowledge()
        else:
            logger.warning("crisper: what ran %s[%s] is gone; it goes back", self.name, self.id)
            self._crisper_reject(requeue=True)

    def _crisper_revoke(self, terminated: bool = False, signum: Any = None) -> None:
        """A person stopped it: on record at once, acknowledged once the result backend knows it too."""
        try:
            self._announce_revoked("stopped", terminated, signum, False)
        except Exception:
            if _deliveries is None:
                raise
            _deliveries.count_error("telling the result backend that a task is stopped")
            _deliveries.worker.timer.call_after(
                TELL_AGAIN_SECONDS, self._crisper_revoke, (terminated, signum)
            )
        else:
            if self._request_dict.get("retries") and _deliveries is not None:
                _deliveries.worker.timer.call_after(TELL_AGAIN_SECONDS, self._crisper_outlast_retry)

    def _crisper_outlast_retry(self) -> None:
        """Celery publishes a retry and stores RETRY afterwards (celery/app/trace.py): of one that was stopped
        before that, the callers would wait for ever. A file, written by both at once, holds neither."""
        try:
            backend = self.task.backend
            if _stored_status(backend, self.id) in (states.RETRY, None) and self._crisper is not None:
                error = TaskRevokedError(self._crisper.stopped)
                backend.store_result(self.id, error, states.REVOKED, request=self._context)
        except Exception:
            if _deliveries is not None:
                _deliveries.count_error("telling the result backend that a task is stopped")

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> Any:
        if self._crisper is not None and self._crisper.stopped:
            reason, expired = self._crisper.stopped, False
        self._crisper_finish(State.EXPIRED if expired else State.REVOKED, reason)
        return super()._announce_revoked(reason, terminated, signum, expired)

    def _crisper_finish(self, state: State, reason: str | None = None, runtime: float | None = None) -> None:
        if self._crisper is None or _deliveries is None:
            return
        try:
            _deliveries.finish(self._crisper, state, reason, runtime)
        except Exception:
            _deliveries.count_error("recording an outcome")

    # -- acknowledgements -----------------------------------------------------

    def acknowledge(self) -> None:
        """Celery acknowledges: at once if early, and once the outcome is durable if late."""
        self._crisper_end_as_due()
        held = self._crisper
        if held is None or _deliveries is None:
            super().acknowledge()
        elif held.muted:
            self._crisper_forget_delivery()
        elif not held.finish_seq:
            self._crisper_acknowledge()
        else:
            self._crisper_when_durable(held, self._crisper_acknowledge)

    def reject(self, requeue: bool = False) -> None:
        held = self._crisper
        if held is None or _deliveries is None:
            super().reject(requeue=requeue)
            return
        if held.muted:
            self._crisper_forget_delivery()
            return
        self._crisper_finish(State.RELEASED if requeue else State.REJECTED, "rejected")
        self._crisper_when_durable(held, lambda: self._crisper_reject(requeue))

    def _crisper_when_durable(self, held: Held, answer: Callable[[], None]) -> None:
        try:
            assert _deliveries is not None
            _deliveries.when_durable(held, answer)
        except Exception:
            if _deliveries is not None:
                _deliveries.count_error("waiting to acknowledge")
            answer()

    def _crisper_acknowledge(self) -> None:
        if not self._crisper_is_left_behind():
            super().acknowledge()

    def _crisper_reject(self, requeue: bool) -> None:
        if not self._crisper_is_left_behind():
            super().reject(requeue=requeue)

    def _crisper_is_left_behind(self) -> bool:
        """Its connection to the broker is gone: the broker gives it again, and the gate knows what became of
        it. On Redis kombu would ask a transport that is gone for its address: it would end the worker."""
        held = self._crisper
        if held is None or _deliveries is None or held.generation == _deliveries.generation:
            return False
        self.acknowledged = True
        return True

    # -- fences ---------------------------------------------------------------

    def _crisper_muted(
        self, state: State | None = None, reason: str | None = None, runtime: float | None = None
    ) -> bool:
        """A fenced attempt: nothing it says counts, and its delivery is not ours any more."""
        held = self._crisper
        if held is None or not held.muted or _deliveries is None:
            return False
        worker_state.task_ready(self)
        if state is not None:
            _deliveries.late(held, state, reason, runtime)
        _deliveries.mute_forget(held)
        return True

    def _crisper_forget_delivery(self) -> None:
        """Give the prefetch slot back without destroying anything.

        AMQP: reject with requeue, the gate decides where it lands. Redis and the
        other virtual transports: forget the tag here; on the server it has a new
        holder, or the courier hands it back.
        """
        if self.acknowledged:
            return
        channel = self._message.channel
        if isinstance(channel, VirtualChannel):
            channel.qos._delivered.pop(self._message.delivery_tag, None)
            self.acknowledged = True
        else:
            super().reject(requeue=True)


def _stored_status(backend: Any, task_id: str) -> str | None:
    """None if it cannot be read: then nothing else could be stored over it, and it is removed."""
    try:
        return str(backend._get_task_meta_for(task_id)["status"])
    except DecodeError:
        backend.forget(task_id)
        return None


def _acks(task: Any, *, timed_out: bool) -> bool:
    """Celery's setting, under its names in 5.5 and 5.7."""
    newer = getattr(task, "acks_on_timeout" if timed_out else "acks_on_failure", None)
    return bool(task.acks_on_failure_or_timeout if newer is None else newer)


def install_on(app: Any) -> None:
    """Give every task a Request class that records, its own one mixed in."""
    from celery.utils.imports import symbol_by_name

    for task in app.tasks.values():
        own = symbol_by_name(task.Request)
        if not issubclass(own, RecordedRequest):
            task.Request = _mixed(own)


_mixes: dict[type, type] = {}


def _mixed(own: type) -> type:
    if own is Request:
        return RecordedRequest
    if own not in _mixes:
        _mixes[own] = type(f"Recorded{own.__name__}", (RecordedRequest, own), {})
    return _mixes[own]
