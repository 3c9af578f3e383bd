"""The way of a granted delivery into the pool."""

from __future__ import annotations

import threading
from typing import Any

from celery.exceptions import TaskRevokedError
from celery.worker import state as worker_state

from crisper.celery.claims import DISPATCHED
from crisper.celery.deliveries.orders import Orders
from crisper.celery.dispatcher import Dispatcher
from crisper.celery.held import Held, Stage
from crisper.celery.link import monotonic_ms
from crisper.recorder import wire


class Dispatching(Orders):
    """A body begins once its claim is durable, or at once where recording is relaxed."""

    def dispatch(self, held: Held, pool: Any) -> None:
        """Celery wants the request run: now, or once its claim is durable.

        Raises `TaskRevokedError` where it is not to run: Celery then gives the slot back.
        """
        held.pool = pool
        if not self._may_run_now(held):
            if self._waits_here():
                self._await_answer(held)
        elif self._dispatcher is not None and held.stage is Stage.GRANTED and not self._waits_here():
            self._dispatcher.put(held)  # a full pool would block the thread that consumes
        else:
            self._to_pool(held)

    def run_granted(self, held: Held) -> None:
        if held.stage is not Stage.GRANTED or self._closing():
            return
        try:
            self._to_pool(held)
        except TaskRevokedError:
            self._release_slot(held)
        except Exception:
            self.count_error("dispatching")
            self._release_slot(held)
            held.stage = Stage.GRANTED
            self.put_back(held)

    def use_dispatcher(self) -> None:
        """Without an event loop: receive on a thread of our own, dispatch on another."""
        self._dispatcher = Dispatcher(self.run_granted, self._wait_for_room)
        self._dispatcher.start()
        threading.Thread(target=self._receive_for_ever, name="crisper-receive", daemon=True).start()

    def _may_run_now(self, held: Held) -> bool:
        """Whether to dispatch at once; if not, the answer, which may come on another thread, does."""
        with self._receiving:
            if held.stage is Stage.GRANTED:
                return True
            if held.stage is Stage.ASKED:
                held.has_slot = self.settings.recording == "strict"
                # A slot is free: the body begins as soon as the claim is durable, so the claim says so.
                if held.has_slot and self._uses_slots():
                    self.link.amend(held.seq, DISPATCHED, True)
                return not held.has_slot
            held.wants_to_run = held.stage in (Stage.PARKED, Stage.UNANSWERABLE)
            if held.stage is Stage.CLOSED:  # stopped, expired or revoked while it waited for its time
                worker_state.reserved_requests.discard(held.request)
        raise TaskRevokedError(held.task_id)

    def _waits_here(self) -> bool:
        """The solo pool runs the body in this very thread, and without a loop nobody would answer."""
        return self.worker.hub is None and type(self.worker.pool).__module__.endswith(".solo")

    def _await_answer(self, held: Held) -> None:
        while held.stage is Stage.ASKED and held.has_slot:
            self.link.flush()
            self.link.wait(0.5)
            self.receive()
        self.run_granted(held)

    def _to_pool(self, held: Held) -> None:
        with self._receiving:  # not while an order to stop it, on another thread, is carried out
            self._heed_orders()
            if held.stage is Stage.CLOSED:
                raise TaskRevokedError(held.task_id)
            held.has_slot = False
            held.stage = Stage.DISPATCHED
        if not held.acks_late:
            self.link.send((wire.START, monotonic_ms(), held.seq, held.task_id, 0))
            self._maybe_flush()
        held.request._request_dict["crisper"] = (held.seq, held.number, held.checkpoint)
        held.future = getattr(held.request._crisper_run(held.pool), "f", None)

    def _answered_dispatch(self, held: Held) -> None:
        """A claim was granted while its request waited with a slot."""
        if self._waits_here():
            return  # the thread that waits for this goes on itself
        if self._dispatcher is not None:
            self._dispatcher.put(held)
        else:
            self.run_granted(held)

    def _run_if_wanted(self, held: Held) -> None:
        """Celery asked for it once, and was told to go on without it."""
        if held.wants_to_run and not self._closing():
            held.wants_to_run = False
            worker_state.task_reserved(held.request)
            self.worker.consumer.on_task_request(held.request)

    def _wait_for_room(self) -> None:
        """What waits inside the pool would run even if a fence or an order to stop it came meanwhile; here
        it does not."""
        pool: Any = getattr(self.worker.pool, "_pool", None)
        room = getattr(pool, "_putlock", None)
        if room is not None:
            with room:
                pass
        elif hasattr(pool, "wait_available"):  # gevent's
            pool.wait_available()

    def _receive_for_ever(self) -> None:
        while not self.link._closed:
            self.link.wait(1.0)
            self.receive()

    def accepted(self, held: Held, pid: int) -> None:
        """The pool began the body."""
        if held.muted:
            self._stop_unless_ended(held)
        if held.muted or held.finish_seq:
            return
        held.accepted, held.accepted_at = True, monotonic_ms()
        pid = pid if self._is_prefork() else self.link.pid
        item = (wire.START, monotonic_ms(), held.seq, held.task_id, pid)
        self.link.stand(held.seq, item)
        if self._is_prefork():
            self._maybe_flush()
        else:  # the body may keep this very thread, and what dies with it must be known to have begun
            self.on_begun_inside(held)
            self.link.flush()
