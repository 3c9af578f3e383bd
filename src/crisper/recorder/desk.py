"""What a recorder has before it: the wire, the words, its mail, and what it knows of its worker."""

from __future__ import annotations

import contextlib
import marshal
import os
import selectors
import socket
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import Any

from crisper.core.model import Published, Sighting
from crisper.engine.circuit import Circuit
from crisper.engine.deadline import Watchdog
from crisper.engine.journal import Journal
from crisper.engine.oom import OomWatch
from crisper.engine.recording import Recording
from crisper.engine.running import Running
from crisper.engine.window import Window
from crisper.recorder import wire
from crisper.recorder.cgroup import own_cgroup
from crisper.recorder.enrollment import Enrollment, Outcome
from crisper.recorder.pulse import PulseThread, Stop
from crisper.recorder.records import Reader
from crisper.recorder.reply import ANCILLARY, Reply, descriptor
from crisper.recorder.sign import SignThread
from crisper.recorder.watch import WatchThread
from crisper.recorder.witness import Process
from crisper.store.base import Store
from crisper.store.database import Place

#: Client-side deadline of one registry call, in seconds; the parent replaces a
#: recorder that has been silent for longer than this.
CALL_SECONDS = 5.0
#: What was seen of the worker while the registry is away, at most; then the oldest is forgotten.
MOST_TESTIMONY = 1000


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Desk(ABC):
    """Reads and sends; who inherits says what is done with what was read."""

    def __init__(self) -> None:
        self._wire = socket.socket(fileno=wire.WIRE_FD)
        self._words = socket.socket(fileno=wire.WORDS_FD)
        self._wire.setblocking(False)
        self._words.setblocking(False)
        os.set_blocking(wire.ALIVE_FD, False)
        self._inbox, self._out = wire.Inbox(), bytearray()
        self._mail: deque[tuple[Any, ...]] = deque()  # from the pulse thread
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wire, selectors.EVENT_READ)
        self._selector.register(self._words, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._watchdog = Watchdog(CALL_SECONDS)
        self._children: dict[int, Process] = {}
        self._running = Running()
        self._cgroup = own_cgroup()
        self._oom = OomWatch(self._cgroup.kills if self._cgroup else lambda: None)
        self._hello: dict[str, Any] = {}
        self._parent: Process | None = None
        self._reader: Reader | None = None
        self._circuit = Circuit()
        self._journal: Journal | None = None
        self._window: Window | None = None
        self._place: Place | None = None
        self._recording: Recording | None = None
        self._over: Recording | None = None  # of an incarnation that was fenced
        self._store: Store | None = None
        self._enrollment: Enrollment | None = None
        self._outcomes: deque[tuple[Enrollment, Outcome]] = deque()  # from the enrolling thread
        self._pulse: PulseThread | None = None
        self._published: list[Published] = []  # for the journal
        self._early: list[tuple[Any, ...]] = []  # came before anybody could take it
        self._said_bye: str | None = None
        self._wire_open = True
        self._write_after = 0.0
        self._last_published: tuple[list[Published], int] = [], 0
        #: Why the worker was told to take no more messages; None: a recorder before us may have told it so.
        self._paused: str | None = None
        self._troubled = False
        self._busy = False
        self._commit_seconds = 0.0  # that the last one took
        self._lends = False  # the worker, prefetch slots for what waits for commits
        self._parts = wire.Parts()
        self._tick: tuple[int, dict[str, Any]] | None = None
        self._stands, self._stood_at, self._stack = "", 0, ""
        self._began_ms = self._turned_ms = monotonic_ms()
        self._silent: tuple[Any, ...] = ()  # as the parent said last
        self._long: tuple[Any, ...] = ()  # too
        self._stops: deque[Stop] = deque()  # for the pulse thread
        self._sign: SignThread | None = None
        self._watch: WatchThread | None = None
        self._testimony: deque[Sighting] = deque(maxlen=MOST_TESTIMONY)  # for the pulse thread

    def _select(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            self._readable(key.fileobj)

    def _readable(self, source: Any) -> None:
        if source is self._wire:
            self._read_wire()
        elif source is self._words:
            self._read_words()
        elif source == self._wake_read:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)

    def _read_wire(self) -> bool:
        """Take in what is there; False once there is nothing more.

        Words first: a child says its own before the parent can have heard of the outcome.
        """
        self._read_words()
        try:
            data = self._wire.recv(wire.READ)
        except BlockingIOError:
            return False
        except ConnectionError:
            data = b""
        if not data:
            self._wire_open = False
            with contextlib.suppress(KeyError):
                self._selector.unregister(self._wire)
            return False
        for item in self._inbox.feed(data):
            self._take(item)
        return True

    def _read_words(self) -> None:
        while True:
            try:
                data, ancillary, _, _ = self._words.recvmsg(wire.READ, ANCILLARY)
                reply = Reply(descriptor(ancillary))
                item = marshal.loads(data)
            except (BlockingIOError, EOFError, ValueError, TypeError):
                return
            self._take_word(item, reply)

    def _within(self) -> Any:
        """A call's deadline, where there is somebody to call."""
        return self._watchdog.call(self._store) if self._store is not None else contextlib.nullcontext()

    def _tell(self, item: tuple[Any, ...]) -> None:
        """Queue an item for the parent, from any thread."""
        self._mail.append(item)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b".")

    def _send(self) -> None:
        if self._out:
            with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                sent = self._wire.send(self._out)
                del self._out[:sent]
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
        if self._wire_open and self._selector.get_key(self._wire).events != wanted:
            self._selector.modify(self._wire, wanted)

    def _trouble(self, exc: Exception) -> None:
        if not self._troubled:
            self._troubled = True
            how = "deliveries wait until it answers"
            if self._journal is not None:
                how = "tasks go on, on record in the journal of this host"
            self._tell((wire.LOG, "error", f"{exc}; {how}"))

    def _untroubled(self) -> None:
        if self._troubled:
            self._troubled = False
            self._tell((wire.LOG, "warning", "the registry answers again"))

    @abstractmethod
    def _take(self, item: tuple[Any, ...]) -> None:
        """The parent said this."""

    @abstractmethod
    def _take_word(self, item: tuple[Any, ...], reply: Reply) -> None:
        """A process of its pool said this."""
