"""Prefetch slots for deliveries that only wait for a commit.

A message is claimed before it runs and acknowledged after its end is on record: two commits, and a prefetch
slot held all the while. Where commits are slow, or the recorder waits for more to commit at once, that
starves the pool. So two kinds of slots are lent then:
- for each outcome that only waits for its commit: plain Celery would have acknowledged it by now;
- ahead, for claims, as many as there usually are bodies that end while the oldest of the claims just answered
  waited, less one for each process of the pool, and less what is granted and waits for the pool already. More
  bodies than processes end in that time only if some of them began in it too: tasks that take longer than a
  commit borrow nothing, whatever the prefetch.
One number is lent, changed by the difference, and made anew of what waits at that moment: no slot leaks.
Where claims are lent ahead as much is lent for outcomes, at least: one number that stays, instead of a
change with each.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from kombu.transport.virtual import Channel as VirtualChannel

from crisper.celery.brokers.amqp import prefetch_is_static
from crisper.celery.held import Held
from crisper.celery.link import LOOP_THREAD, Link

#: Where claims wait for less nothing is lent: there would be nothing to gain.
SLOW_SECONDS = 0.005
#: What is answered later was no commit but an outage: it says nothing of how many could have run.
OUTAGE_SECONDS = 1.0
#: By which what usually ends in a claim's wait falls with each answer; it rises at once.
SHARE = 0.1
#: Slots lent ahead at most: messages that would wait behind tasks that became long all at once.
AHEAD = 64
#: Outcomes at most that hold no slot: they come again if the worker dies.
BEHIND = 256
#: RabbitMQ is asked, and answers, for each change: not more often for single outcomes.
SPACING_SECONDS = 0.02


class Lending:
    """Of one worker. The loop's own thread changes the prefetch, or whichever it is where no loop turns."""

    def __init__(
        self, worker: Any, link: Link, *, ahead: bool, granted: Callable[[], int],
        failed: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._worker, self._link = worker, link
        self._granted, self._failed = granted, failed
        self._may_ahead = ahead  # whether a claim's answer is waited for before its task runs
        self.ended = 0  # bodies so far
        self.slow = False  # whether claims waited long, of late
        self._seen_slow = False
        #: Bodies that usually end while a claim waits, less those granted already.
        self._usual = 0.0
        self._has_answered = False  # in this second
        self._ahead = 0  # to be lent by that
        self._outcomes: deque[int] = deque()  # of this connection: records that acknowledgements wait for
        self._oldest = 0  # of them at the last tick
        self._lock = threading.RLock()
        self._qos: Any = None
        self._prefetches = True
        self._changes = self._at_once = False  # whether its prefetch can be changed, and without asking
        self._raised_at = 0.0
        self.lent = 0

    @property
    def lends(self) -> bool:
        """Whether what waits for commits is made up for."""
        return self.slow and self._changes

    def answered(self, held: Held) -> None:
        """The oldest of the claims that are just answered."""
        waited = time.monotonic() - held.asked_at
        if waited >= SLOW_SECONDS:
            self.slow = self._seen_slow = True
            if waited <= OUTAGE_SECONDS:
                meanwhile = self.ended - held.ended_before
                self._figure(meanwhile - self._granted() if meanwhile else 0)

    def waits(self, seq: int) -> None:
        """An outcome that is acknowledged once this record is durable."""
        self._outcomes.append(seq)
        if self.slow and len(self._outcomes) > self._ahead:
            self.lend()

    def settle(self) -> None:
        """What is durable is about to be acknowledged."""
        durable, outcomes = self._link.durable, self._outcomes
        while outcomes and outcomes[0] <= durable:
            outcomes.popleft()
        if self.slow or self.lent:
            self.lend()

    def tick(self, asking: Held | None) -> None:
        """Once a second: forget what is over, and see what has been waiting all the while."""
        if not self._has_answered:
            self._usual = 0.0
            self._figure(0)
        self._has_answered = False
        oldest = next(iter(tuple(self._outcomes)), 0)
        if oldest and oldest == self._oldest:
            self._seen_slow = True
        if asking is not None and time.monotonic() - asking.asked_at >= SLOW_SECONDS:
            self._seen_slow = True
        self._oldest = oldest
        self.slow, self._seen_slow = self._seen_slow, False
        if self.slow or self.lent:
            self.lend()

    def forget(self) -> None:
        """What waits holds no slot any more: its connection is lost, or a fence has let go of it."""
        self._outcomes = deque()  # not emptied: another thread may go through it

    def lend(self) -> None:
        """As much as is due now. Never raises."""
        try:
            if self._worker.hub is None:
                with self._lock:
                    self._lend()
            elif threading.get_ident() == LOOP_THREAD:
                self._lend()
            else:  # Celery takes the prefetch for the loop's own there
                self._worker.consumer.call_soon(self.lend)
        except Exception:
            self._failed("lending prefetch slots")

    def _lend(self) -> None:
        consumer = self._worker.consumer
        if consumer is None or consumer.task_consumer is None or consumer.qos is None:
            return
        if consumer.qos is not self._qos:
            self._meet(consumer)
        if self._changes:
            # After a lost connection Celery sets the prefetch itself, step by step.
            more = (self._due() if self.slow and consumer._maximum_prefetch_restored else 0) - self.lent
            if more:
                self._change(more)

    def _figure(self, meanwhile: int) -> None:
        self._has_answered = True
        falling = self._usual + (meanwhile - self._usual) * SHARE
        self._usual = meanwhile if meanwhile > falling else falling
        # A pool that is gone has no processes to tell of.
        over = int(self._usual) - (getattr(self._worker.pool, "num_processes", 0) or 1)
        self._ahead = AHEAD if over > AHEAD else over if over > 0 else 0

    def _meet(self, consumer: Any) -> None:
        """A new connection begins with a prefetch of its own, which may not be to be changed."""
        self._qos, self.lent = consumer.qos, 0
        # What `worker_eta_task_limit` cuts off an increase is not given back by Celery's own decrease.
        limit = getattr(self._qos, "max_prefetch", None)
        self._changes = limit is None and not prefetch_is_static(consumer)
        self._prefetches = not consumer.app.conf.get("worker_disable_prefetch")
        self._at_once = isinstance(consumer.task_consumer.channel, VirtualChannel)

    def _due(self) -> int:
        ahead, behind = self._ahead if self._prefetches else 0, len(self._outcomes)
        if behind < ahead:
            behind = ahead
        elif behind > BEHIND:
            behind = BEHIND
        return ahead + behind if self._may_ahead else behind

    def _change(self, more: int) -> None:
        qos = self._qos
        if more < 0:
            qos.decrement_eventually(-more)
            self.lent += more
        elif self._at_once or self._may_ask_again():
            before = qos.value
            self.lent += qos.increment_eventually(more) - before  # none where it has no limit
        if self._at_once:
            qos.update()

    def _may_ask_again(self) -> bool:
        before, self._raised_at = self._raised_at, time.monotonic()
        if self._raised_at - before >= SPACING_SECONDS:
            return True
        self._raised_at = before
        return False
