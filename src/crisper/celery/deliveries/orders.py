"""Orders to stop an attempt, and processes that are gone."""

from __future__ import annotations

import signal
import time

from billiard.pool import SIG_SOFT_TIMEOUT
from celery.utils.log import get_logger

from crisper.celery.deliveries.returns import Returns
from crisper.celery.ending import end
from crisper.celery.held import Held, Stage
from crisper.celery.inside import is_soft
from crisper.celery.link import Item
from crisper.recorder import wire

logger = get_logger(__name__)


#: Between learning of a fence and stopping the processes of what it fenced.
STOP_SECONDS = 0.2
#: A process that a person's order ends with SIGTERM has so long until SIGKILL.
GRACE_SECONDS = 5.0


class Orders(Returns):
    """Carried out against exactly the attempt that is meant."""

    def _arrived(self) -> list[Item]:
        try:
            return self.link.receive()
        except Exception:
            # What was in it is lost, but another recorder is told everything again, and answers.
            self.count_error("receiving")
            self.link.start_anew()
            return []

    def _heed_orders(self) -> None:
        """The solo pool's bodies keep the loop: what a person ordered meanwhile is heard before the next one
        begins, and the rest of what arrived in its turn."""
        if not type(self.worker.pool).__module__.endswith(".solo"):
            return
        arrived = self._arrived()
        self._put_off += [item for item in arrived if item[0] != wire.ORDERS]
        if self._put_off:
            self.worker.timer.call_after(0, self.receive)
        for item in arrived:
            if item[0] == wire.ORDERS:
                self._ordered(item[1])

    def _ordered(self, orders: list[tuple[int, int, str, bool]]) -> None:
        """Attempts of ours that a person, or a policy, ordered to stop; each comes again until it is closed.
        The last word of each: whether it is to run again."""
        for seq, number, why, resend in orders:
            held = self._by_seq.get(seq)
            if held is None or held.number != number or held.muted or held.finish_seq:
                continue  # not known yet, or over: what was recorded of it is on its way
            with self.counted("stopping a task"):
                if resend:
                    held.resend |= not held.stopped
                    self._terminate(held, why)
                elif held.stage is Stage.GRANTED or (held.future is not None and held.future.cancel()):
                    self._revoke(held, why)
                else:
                    self._terminate(held, why)

    def _revoke(self, held: Held, why: str) -> None:
        """Granted and not begun: it ends here, by Celery's own way of ending what was revoked."""
        logger.info("crisper: %s does not run: %s", held.task_id, why)
        if held.has_slot and held.generation == self.generation:
            self._release_slot(held)
        held.has_slot, held.stopped = False, why
        held.request._crisper_revoke()

    def _terminate(self, held: Held, why: str) -> None:
        """Ask the pool process that runs this very attempt to end, and end it if it does not.

        How the attempt ended is recorded when the process is gone, or has ended the body in time.
        """
        if held.stage is not Stage.DISPATCHED or not held.accepted:
            return
        if not self._is_prefork():
            self.inside.end(held, lambda: self._asked_to_end(held, why))
            return
        now, pid = time.monotonic(), held.request.worker_pid
        soft = SIG_SOFT_TIMEOUT if is_soft(held.request.task) else signal.SIGTERM
        if not held.stopped and self._stop(held, pid, soft):
            logger.warning("crisper: ending process %s, which runs %s: %s", pid, held.task_id, why)
            held.stopped, held.kill_at = why, now + GRACE_SECONDS
        elif held.stopped and now >= held.kill_at:
            self._stop(held, pid, signal.SIGKILL)

    def _asked_to_end(self, held: Held, why: str) -> None:
        logger.warning("crisper: ending the body of %s: %s", held.task_id, why)
        held.stopped = why

    def _stop(self, held: Held, pid: int | None, number: int = signal.SIGKILL) -> bool:
        """Signal the pool process that runs the attempt now; pools without processes have none."""
        return self._is_prefork() and end(self.worker.pool, self.slots, held.seq, pid, number)

    def _stop_unless_ended(self, held: Held) -> None:
        """Again and again, until it has ended: its process may not have come to the body yet."""
        if held.stage is not Stage.DISPATCHED or self._closing():
            return
        if not self._is_prefork():
            if self.inside.why_not(held.request.task):
                return  # its outcome is muted
            self.inside.end(held, lambda: None)
        elif held.accepted and self.is_unnoticed(held.request.worker_pid):
            self._gone_since(held, held.request.worker_pid)
        else:
            self._stop(held, held.request.worker_pid)
        self.worker.timer.call_after(STOP_SECONDS, self._stop_unless_ended, (held,))

    def _gone_since(self, held: Held, pid: int) -> None:
        """Nobody else looks after what is fenced. Seen twice: the pool is not just learning it."""
        if held.unnoticed_ms:
            with self.counted("burying a process"):
                self.on_unnoticed(held, pid)
        held.unnoticed_ms += round(STOP_SECONDS * 1000)

    def _gone(self, unnoticed: list[tuple[int, int, int]]) -> None:
        """Attempts of ours whose process is gone, by what our recorder sees, and whose pool said nothing."""
        for seq, pid, gone_ms in unnoticed:
            held = self._by_seq.get(seq)
            if held is None or held.muted or held.finish_seq or held.request.worker_pid != pid:
                continue  # over, or another process runs it by now: what was recorded is on its way
            if held.stage is Stage.DISPATCHED and held.accepted and self._is_prefork():
                with self.counted("burying a process"):
                    held.unnoticed_ms = gone_ms
                    self.on_unnoticed(held, pid)
