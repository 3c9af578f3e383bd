"""The parent's end of the wire: numbered records out, confirmations in.

What is not confirmed is kept and sent again to the next recorder, so that the
death of one loses nothing; the store applies each record once, so that nothing
is doubled either. A native thread, the keeper, replaces a recorder that dies or
stops going round.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from celery.utils.log import get_logger

from crisper.celery.native import original
from crisper.celery.spawn import RecorderProcess, Sockets
from crisper.recorder import wire

logger = get_logger(__name__)

#: A recorder goes round at least once a second, and longer only while one call
#: to the registry is under way, which its own deadline ends after 5 s.
SILENT_SECONDS = 12.0
#: Between two starts of recorders, so that a broken installation does not spin.
RESPAWN_SECONDS = 0.5

#: Celery's event loop turns on the main thread.
LOOP_THREAD = threading.main_thread().ident

Item = Any  # a tuple, or a list while it may still be amended


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Link:
    """Numbers, sends, keeps and confirms. Methods may be called from any thread."""

    def __init__(self, node: str, hello: Callable[[], dict[str, Any]]) -> None:
        self._node, self._hello = node, hello
        self._lock = original("threading", "RLock")()
        #: Hold it to number a record and send it in one step.
        self.in_order = self._lock
        self._sockets = Sockets()
        self._seq = 0
        self._out: list[Item] = []
        self._bytes = bytearray()
        self._unconfirmed: deque[tuple[int, Item]] = deque()
        self._standing: dict[int, Item] = {}  # parked claims and starts: sent again, not confirmed
        self._waiting: deque[tuple[int, Callable[[], None], Callable[[], None]]] = deque()
        self._inbox = wire.Inbox()
        self._recorder: RecorderProcess | None = None
        self._closed = False
        self.durable = 0
        self.generation = 0
        self.since = 0  # the last record's number when this recorder was told everything again
        self.replaced = 0  # recorders started after the first
        self.on_new_wire: Callable[[], None] = lambda: None
        self.on_round: Callable[[], None] = lambda: None  # from the keeper's thread
        self.on_blocked: Callable[[bool], None] = lambda blocked: None
        self.pid = os.getpid()

    # -- the recorder's life --------------------------------------------------

    @property
    def words(self) -> socket.socket:
        """Where pool children send their datagrams."""
        return self._sockets.words_write

    @property
    def stack_signal(self) -> int:
        """On which processes of this worker write their stacks for the recorder; 0 if they do not."""
        return self._sockets.stacks.signal

    def start(self) -> None:
        """Start the first recorder, and the keeper that replaces it."""
        self._sockets.stacks.register()
        self._spawn()
        original("_thread", "start_new_thread")(self._keep, ())

    def fileno(self) -> int:
        return self._recorder.wire.fileno() if self._recorder else -1

    @property
    def recorder_pid(self) -> int:
        return self._recorder.pid if self._recorder else 0

    def _spawn(self) -> None:
        recorder = RecorderProcess(self._node, self._sockets)
        with self._lock:
            self._recorder, self._inbox = recorder, wire.Inbox()
            self._bytes.clear()
            self._out.clear()
            again = [item for _, item in self._unconfirmed]
            standing = [self._standing[seq] for seq in sorted(self._standing)]
            self._bytes += wire.frame([(wire.HELLO, self._greeting()), *again, *standing])
            self.since = self._seq
            self._push()

    def _greeting(self) -> dict[str, Any]:
        return {**self._hello(), "generation": self.generation}

    def greet(self, goes_on: Callable[[int], bool]) -> None:
        """Present a new incarnation to the recorder. What the old one left unsaid is void, but for the
        outcomes of claims that go on under the new one."""
        with self._lock:
            self.generation = 0
            kept = {seq: item for seq, item in self._unconfirmed if _is_outcome(item) and goes_on(item[3])}
            self._unconfirmed = deque(sorted(kept.items()))
            self._standing = {seq: item for seq, item in self._standing.items() if goes_on(seq)}
            void = [one for one in self._waiting if one[0] not in kept]
            self._waiting = deque(one for one in self._waiting if one[0] in kept)
            self.send((wire.HELLO, self._greeting()))
            self._out += [*kept.values(), *self._standing.values()]
            self.flush()
        for _, _, give_up in void:
            give_up()

    def _keep(self) -> None:
        sleep = original("time", "sleep")
        while not self._closed:
            recorder = self._recorder
            if recorder is not None and self._goes_round(recorder):
                self.on_round()
                continue
            if self._is_over():
                return
            try:
                self._replace(recorder)
            except Exception:
                logger.exception("crisper: the recorder could not be replaced; trying again")
            sleep(RESPAWN_SECONDS)

    def _is_over(self) -> bool:
        return self._closed or self.pid != os.getpid()

    def _goes_round(self, recorder: RecorderProcess) -> bool:
        """Wait for the recorder's next sign; False if it is dead or silent for too long."""
        poller = original("select", "poll")()
        poller.register(recorder.alive_read, select.POLLIN)
        if not poller.poll(SILENT_SECONDS * 1000):
            logger.error("crisper: the recorder (pid %s) stopped going round", recorder.pid)
            return False
        return bool(os.read(recorder.alive_read, 4096))

    def _replace(self, old: RecorderProcess | None) -> None:
        if old is not None:
            old.kill()
            old.reap()
            logger.warning("crisper: the recorder (pid %s) ended; starting another", old.pid)
        self.replaced += 1
        self._spawn()
        self.on_new_wire()
        if old is not None:
            old.close()

    def start_anew(self) -> None:
        """The wire cannot be understood any more: the keeper starts another recorder, on another."""
        if self._recorder is not None:
            self._recorder.kill()

    def close(self) -> None:
        """Hang up. The recorder, told goodbye or not, knows what to do."""
        self._closed = True
        if self._recorder is not None and self.pid == os.getpid():
            self._recorder.wire.close()

    def forget_in_child(self) -> None:
        """In a forked pool child: this wire is the parent's."""
        self._closed = True
        if self._recorder is not None:
            self._recorder.close()
            self._recorder = None
        self._sockets.words_read.close()

    # -- out ------------------------------------------------------------------

    @property
    def last(self) -> int:
        """The number of the last record so far."""
        return self._seq

    def number(self) -> int:
        """The next record's number."""
        with self._lock:
            self._seq += 1
            return self._seq

    def record(self, seq: int, item: Item) -> None:
        """Send a numbered record, and keep it until it is confirmed."""
        with self._lock:
            self._unconfirmed.append((seq, item))
            self._out.append(item)

    def stand(self, seq: int, item: Item) -> None:
        """Send what no number confirms; it is sent again to every recorder until `sit`."""
        with self._lock:
            self._standing[seq] = item
            self._out.append(item)

    def keep_standing(self, seq: int, item: Item) -> None:
        """What the recorder has already, to be sent again to the next one only."""
        self._standing[seq] = item

    def sit(self, seq: int) -> None:
        self._standing.pop(seq, None)

    def send(self, item: Item) -> None:
        """Send what need not be sent again."""
        with self._lock:
            self._out.append(item)

    def amend(self, seq: int, index: int, value: Any) -> None:
        """Change a numbered item, if it has not left yet."""
        with self._lock:
            for item in reversed(self._out):
                if len(item) > index and item[2] == seq:
                    item[index] = value
                    return

    def flush(self) -> None:
        """Everything since the last turn of the loop leaves as one frame."""
        if not self._out and not self._bytes:
            return
        with self._lock:
            if self._out:
                out, self._out = self._out, []
                self._bytes += wire.frame([tuple(item) for item in out])
            self._push()

    def _push(self) -> None:
        if self._recorder is None or not self._bytes:
            return
        blocked = False
        try:
            sent = self._recorder.wire.send(self._bytes)
            del self._bytes[:sent]
            blocked = bool(self._bytes)
        except BlockingIOError:
            blocked = True
        except OSError:
            return  # it is dying; the keeper starts another and everything goes again
        self.on_blocked(blocked)

    # -- in -------------------------------------------------------------------

    def receive(self) -> list[Item]:
        """Items that have arrived, confirmations already applied. Never blocks."""
        items: list[Item] = []
        with self._lock:
            while self._recorder is not None:
                try:
                    data = self._recorder.wire.recv(wire.READ)
                except (BlockingIOError, OSError):
                    break
                if not data:
                    break
                items += self._inbox.feed(data)
                if len(data) < wire.READ:
                    break
            for item in items:
                if item[0] == wire.ANSWERS:
                    self._confirm(item[1])
                elif item[0] == wire.READY:
                    self.generation = item[1]
        return items

    def _confirm(self, durable: int) -> None:
        self.durable = max(self.durable, durable)
        unconfirmed = self._unconfirmed
        while unconfirmed and unconfirmed[0][0] <= durable:
            unconfirmed.popleft()

    def run_waiting(self, guarded: Callable[[], AbstractContextManager[None]]) -> None:
        """Call what waited for records that are durable now, in order."""
        while self._waiting and self._waiting[0][0] <= self.durable:
            _, call, _ = self._waiting.popleft()
            with guarded():
                call()

    def awaited(self) -> int:
        """The last record that something waits for."""
        with self._lock:
            return self._waiting[-1][0] if self._waiting else 0

    def when_durable(self, seq: int, call: Callable[[], None], give_up: Callable[[], None]) -> None:
        """Call once record `seq` is durable: now, or from the loop that receives.

        `give_up` is called instead if it never will be, because a fence came first.
        """
        with self._lock:
            if self.durable < seq:
                self._waiting.append((seq, call, give_up))
                return
        call()

    def wait(self, seconds: float) -> None:
        """Block until something can be received; for moments when no loop is running."""
        recorder = self._recorder
        if recorder is None:
            time.sleep(min(seconds, 0.05))
            return
        try:
            select.select([recorder.wire], [], [], seconds)
        except (OSError, ValueError):
            time.sleep(min(seconds, 0.05))


def _is_outcome(item: Item) -> bool:
    return item[0] in (wire.FINISH, wire.CHILD_LOST)
