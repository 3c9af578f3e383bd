"""The recorder's main thread: wire in, group commit, answers out; and the witness at the end.

It reads what the parent sent, commits it, confirms it, and while it commits more
gathers in the socket: that is the group commit. When the parent dies it reads the
wire to its end, stops what is left of the pool, writes down what is known and
declares the death with its evidence.
"""

from __future__ import annotations

import contextlib
import ctypes
import marshal
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from typing import Any

from crisper.core.model import Fence, Incarnation, Pulse
from crisper.engine.deadline import Watchdog
from crisper.engine.writer import Writer
from crisper.errors import (
    CrisperError,
    Fenced,
    RegistryUnreachable,
    RegistryUnusable,
    SchemaMissing,
    SchemaOutdated,
)
from crisper.recorder import wire
from crisper.recorder.pulse import PulseThread
from crisper.recorder.records import Reader, read_word
from crisper.recorder.witness import LINUX, Process, is_stopped, process_start
from crisper.store.ensure import told
from crisper.store.open import is_sqlite, open_store, sqlite_path
from crisper.store.version import check_light

#: File descriptors that the parent leaves us: the wire, the children's
#: datagrams, and the pipe on which we show that this thread goes round.
WIRE_FD, WORDS_FD, ALIVE_FD = 3, 4, 5

#: Client-side deadline of one registry call, in seconds; the parent replaces a
#: recorder that has been silent for longer than this.
CALL_SECONDS = 5.0
ALIVE_EVERY = 1.0
#: When busy, wait this long for more before a commit (a commit per task costs
#: more CPU on both sides than its disk write costs time).
LINGER, LINGER_RECORDS = 0.002, 64
#: Past the trust window nothing new is claimed; how soon to look again whether the lease was renewed.
UNTRUSTED_SECONDS = 0.05
#: How long a recorder whose parent is dead tries to reach the registry before it
#: leaves the verdict to the lease.
LAST_WORDS_SECONDS = 60.0
KILL_SECONDS = 5.0


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Recorder:
    """One per worker. `run` returns the exit code."""

    def __init__(self) -> None:
        self._wire = socket.socket(fileno=WIRE_FD)
        self._words = socket.socket(fileno=WORDS_FD)
        self._wire.setblocking(False)
        self._words.setblocking(False)
        os.set_blocking(ALIVE_FD, False)
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
        self._hello: dict[str, Any] = {}
        self._parent: Process | None = None
        self._reader: Reader | None = None
        self._writer: Writer | None = None
        self._over: Writer | None = None  # of an incarnation that was fenced
        self._pulse: PulseThread | None = None
        self._early: list[tuple[Any, ...]] = []  # came before the fence was ours
        self._said_bye: str | None = None
        self._wire_open = True
        self._enroll_at = 0.0
        self._write_after = 0.0
        self._troubled = False
        self._busy = False
        self._parts = wire.Parts()
        self._tick: tuple[int, dict[str, Any]] | None = None

    # -- the loop -------------------------------------------------------------

    def run(self) -> int:
        alive_at = 0.0
        while True:
            now = time.monotonic()
            if now >= alive_at:
                alive_at = now + ALIVE_EVERY
                with contextlib.suppress(BlockingIOError, BrokenPipeError):
                    os.write(ALIVE_FD, b".")
            self._wait(alive_at)
            if self._parent is not None and not self._parent.is_alive():
                return self._witness()
            if not self._wire_open:
                return self._after_the_wire()
            self._enroll()
            self._write()
            self._deliver_mail()
            self._send()

    def _wait(self, until: float) -> None:
        timeout = max(0.0, until - time.monotonic())
        if self._writer is not None:
            due = self._writer.due(monotonic_ms())
            if due is not None:
                timeout = min(timeout, max(due / 1000, self._write_after - time.monotonic()))
        elif self._hello:
            timeout = min(timeout, max(0.0, self._enroll_at - time.monotonic()))
        self._select(timeout)
        if self._busy and self._writer is not None:
            self._linger(self._writer)

    def _linger(self, writer: Writer) -> None:
        until = time.monotonic() + LINGER
        while 0 < len(writer) < LINGER_RECORDS and (left := until - time.monotonic()) > 0:
            self._select(left)

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
            data = self._wire.recv(1 << 20)
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
                item = marshal.loads(self._words.recv(65536))
            except (BlockingIOError, EOFError, ValueError, TypeError):
                return
            self._take_word(item)

    def _take_word(self, item: tuple[Any, ...]) -> None:
        if item[0] == wire.CHILD:
            self._know_child(item[1])
        elif item[0] == wire.NOTED:
            self._noted(item)
        elif item[0] == wire.WORD and self._writer is not None:
            word = read_word(item)
            if word is not None:
                self._writer.heard(monotonic_ms(), word)

    def _noted(self, item: tuple[Any, ...]) -> None:
        """A message was published in one of our processes."""
        note = self._parts.take(item)
        if note is not None and self._pulse is not None and self._reader is not None:
            hello = self._hello
            scope = hello["incarnation"]["scope"]
            self._pulse.published(self._reader.published(note, scope, hello["loss_budget"]))

    def _know_child(self, pid: int) -> None:
        for old in [p for p in self._children.values() if not p.is_alive()]:
            del self._children[old.pid]
            old.close()
        if pid not in self._children:
            self._children[pid] = Process(pid, process_start(pid))

    # -- what the parent says -------------------------------------------------

    def _take(self, item: tuple[Any, ...]) -> None:
        kind = item[0]
        if kind == wire.HELLO:
            self._greeted(item[1])
        elif kind == wire.TICK:
            self._tick = (item[1], item[2])
        elif kind == wire.BYE:
            self._said_bye = item[1]
        elif self._writer is None:
            self._early.append(item)
        elif kind == wire.DROP:
            self._writer.drop(item[1])
        elif kind == wire.ASK:
            if self._pulse is not None:
                self._pulse.ask(item)
        else:
            self._record(self._writer, item)

    def _record(self, writer: Writer, item: tuple[Any, ...]) -> None:
        assert self._reader is not None
        if item[0] == wire.START:
            at, kind_fields = item[1], item[2:]
            claim_seq, task_id, pid = kind_fields
            item = (wire.START, at, claim_seq, task_id, pid, (process_start(pid) or 0) if pid else 0)
        at, record = self._reader.read(item)
        writer.add(at, record)

    def _greeted(self, hello: dict[str, Any]) -> None:
        """A parent presents itself; again, with a new incarnation, after it was fenced."""
        self._retire()
        self._keep_late()
        self._hello = hello
        self._reader = Reader(
            preview_bytes=hello["preview_bytes"],
            redact=tuple(hello["redact"]),
            max_message_bytes=hello["max_message_bytes"],
        )
        if self._parent is None:
            one = hello["incarnation"]
            self._parent = Process(one["pid"], one["pid_start"])
            if self._parent.fileno() >= 0:
                self._selector.register(self._parent.fileno(), selectors.EVENT_READ)
        for pid in hello["children"]:
            self._know_child(pid)
        self._enroll_at = 0.0

    def _keep_late(self) -> None:
        """What a fenced incarnation still said before its parent knew: its outcomes are kept as events."""
        early, self._early = self._early, []
        over, self._over = self._over, None
        if over is None:
            return
        for item in early:
            if item[0] == wire.FINISH:
                self._record(over, item)
        with contextlib.suppress(RegistryUnreachable), self._watchdog.call(self._store):
            over.keep_late(monotonic_ms())
        self._store.close()

    def _write_published(self) -> None:
        """What the pulse thread did not come to: it stops here."""
        if self._pulse is not None:
            self._pulse.stop()
            self._pulse.join(KILL_SECONDS)
            grace_ms = int(self._hello["redelivery_grace"] * 1000)
            self._store.publish(self._pulse.unwritten(), due_in_ms=grace_ms)

    def _retire(self) -> None:
        if self._pulse is not None:
            self._pulse.stop()
        self._pulse = self._writer = None

    def _enroll(self) -> None:
        """Get the fence: enroll, or take it over from the recorder before us."""
        if self._writer is not None or not self._hello or time.monotonic() < self._enroll_at:
            return
        hello = self._hello
        try:
            store = open_store(hello["registry_url"], application_name=f"crisper {hello['nodename']}")
        except CrisperError as exc:
            self._refuse_to_start(exc)
            return
        try:
            with self._watchdog.call(store):
                self._ready_schema(store, hello["registry_url"])
                fence = self._fence(store, hello)
        except RegistryUnreachable as exc:
            store.close()
            if hello["starting"] and isinstance(exc, RegistryUnusable):
                self._refuse_to_start(exc)
                return
            self._trouble(exc)
            self._enroll_at = time.monotonic() + 1.0
            return
        except CrisperError as exc:
            store.close()
            self._refuse_to_start(exc)
            return
        if fence is None:
            store.close()
            self._hello = {}
            self._tell((wire.FENCED, hello["incarnation"]["id"]))
            return
        self._start(store, fence)

    def _refuse_to_start(self, exc: CrisperError) -> None:
        """What no waiting will mend: the worker ends with this sentence."""
        self._hello = {}
        self._tell((wire.FATAL, str(exc), exc.exit_code))

    def _ready_schema(self, store: Any, url: str) -> None:
        """An embedded registry is made ready here; a server's is somebody's to migrate."""
        try:
            if is_sqlite(url) and not sqlite_path(url).exists():
                raise SchemaMissing(url)
            check_light(store)
        except (SchemaMissing, SchemaOutdated):
            if not is_sqlite(url):
                raise
            # In a process of its own: the migration tools would stay in our memory.
            command = [sys.executable, "-P", "-m", "crisper.store.ensure"]
            made = subprocess.run(command, input=url, capture_output=True, text=True, check=False)
            if made.returncode:
                raise told(made.stdout) from None
            check_light(store)

    def _fence(self, store: Any, hello: dict[str, Any]) -> Fence | None:
        one = Incarnation(**hello["incarnation"])
        if not hello["generation"]:
            fence: Fence = store.enroll(one)
            return fence
        # Recorders before us may have moved the fence, and died before the parent heard of it:
        # the generation to take over from is the one on record. The parent killed and reaped
        # them before it started us, so nobody else writes in its name.
        known = next((worker for worker in store.alive() if worker.id == one.id), None)
        if known is None:
            return None
        replaced: Fence | None = store.replace_recorder(Fence(one.id, known.generation))
        return replaced

    def _start(self, store: Any, fence: Fence) -> None:
        hello = self._hello
        application = f"crisper {hello['nodename']}"
        pulse = self._pulse = PulseThread(
            open_store(hello["registry_url"], application_name=application, within=self._watchdog.call),
            fence,
            hello,
            parent_stopped=lambda: is_stopped(hello["incarnation"]["pid"]),
            beating=self._beating,
            ticked=lambda: self._tick[0] if self._tick else 0,
            tell=self._tell,
        )
        self._writer = Writer(
            store,
            fence,
            renewing=lambda: pulse.renewing,
            on_error=lambda sentence: self._tell((wire.TROUBLE, sentence)),
        )
        self._store = store
        self._tell((wire.READY, fence.generation))
        self._troubled = False
        pulse.start()
        early, self._early = self._early, []
        for item in early:
            self._take(item)

    def _beating(self) -> Pulse:
        tick = self._tick
        age = monotonic_ms() - tick[0] if tick else None
        return Pulse(os.getpid(), process_start(os.getpid()) or 0, age, tick[1] if tick else {})

    # -- committing and answering ---------------------------------------------

    def _write(self) -> None:
        writer = self._writer
        pulse = self._pulse
        if writer is None or pulse is None or time.monotonic() < self._write_after:
            return
        due = writer.due(monotonic_ms())
        if due is None or due > 0:
            if self._said_bye is not None:
                self._goodbye(writer)
            return
        trusted = pulse.trusted()
        if not trusted:
            pulse.hurry()
            self._write_after = time.monotonic() + UNTRUSTED_SECONDS
        try:
            with self._watchdog.call(self._store):
                written = writer.write(monotonic_ms(), claims=trusted)
        except RegistryUnreachable as exc:
            self._trouble(exc)
            self._write_after = time.monotonic() + 0.25
            return
        except Fenced:
            self._tell((wire.FENCED, writer.fence.incarnation))
            return
        self._untroubled()
        self._busy = written.records > 1
        answers = [tuple(a) for a in written.answers if _is_news(a)]
        self._out += wire.frame([(wire.ANSWERS, written.durable, wire.plain(answers))])

    def _goodbye(self, writer: Writer) -> None:
        """All that came before the goodbye is written; now the incarnation ends cleanly."""
        with contextlib.suppress(RegistryUnreachable), self._watchdog.call(self._store):
            self._write_published()
            self._store.say_goodbye(writer.fence, reason=self._said_bye or "")
            while self._store.close_lost(writer.fence.incarnation, by="goodbye").more:
                pass
            self._retire()
            self._hello = {}
            self._out += wire.frame([(wire.TOLD, 0, True, "goodbye")])

    def _trouble(self, exc: Exception) -> None:
        if not self._troubled:
            self._troubled = True
            self._tell((wire.LOG, "error", f"{exc}; deliveries wait until it answers"))

    def _untroubled(self) -> None:
        if self._troubled:
            self._troubled = False
            self._tell((wire.LOG, "warning", "the registry answers again"))

    def _tell(self, item: tuple[Any, ...]) -> None:
        """Queue an item for the parent, from any thread."""
        self._mail.append(item)
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b".")

    def _deliver_mail(self) -> None:
        items = []
        while self._mail:
            items.append(self._mail.popleft())
        writer = self._writer
        if writer is not None and (wire.FENCED, writer.fence.incarnation) in items:
            self._over = writer
            self._retire()
            self._hello = {}  # nobody to enroll until the parent presents its next incarnation
        if items:
            self._out += wire.frame(items)

    def _send(self) -> None:
        if self._out:
            with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                sent = self._wire.send(self._out)
                del self._out[:sent]
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
        if self._wire_open and self._selector.get_key(self._wire).events != wanted:
            self._selector.modify(self._wire, wanted)

    # -- the end --------------------------------------------------------------

    def _after_the_wire(self) -> int:
        """The parent hung up: it said goodbye, it replaced us, or it is dying right now."""
        if self._said_bye is None and self._parent is not None and self._parent.wait(2.0):
            return self._witness()
        if self._said_bye is not None and self._writer is not None:
            return self._last_writes(self._writer, {})
        self._retire()
        return 0

    def _witness(self) -> int:
        """The parent is dead. Make sure of its children, write what is known, declare it."""
        while self._wire_open and self._read_wire():
            pass
        if self._pulse is not None:
            self._pulse.stop()
        stopped = self._stop_children()
        self._read_words()
        writer = self._writer
        if writer is None or not stopped:
            return 0  # nothing was ours to declare, or it cannot be sure: the lease decides
        writer.last_words(monotonic_ms())
        assert self._parent is not None
        evidence = {
            "how": "witnessed by its recorder",
            "pid": self._parent.pid,
            "pid_start": self._parent.start,
            "children_stopped": len(self._children),
        }
        return self._last_writes(writer, evidence)

    def _last_writes(self, writer: Writer, evidence: dict[str, Any]) -> int:
        """Everything that is known, then the end itself; as long as the registry may come back."""
        give_up = time.monotonic() + LAST_WORDS_SECONDS
        while time.monotonic() < give_up:
            try:
                with self._watchdog.call(self._store):
                    return self._declare(writer, evidence)
            except RegistryUnreachable:
                time.sleep(0.2)
            except Fenced:
                return 0
        return 0

    def _declare(self, writer: Writer, evidence: dict[str, Any]) -> int:
        self._write_published()
        while writer.due(monotonic_ms()) == 0:
            writer.write(monotonic_ms())
        if self._said_bye is not None:
            self._store.say_goodbye(writer.fence, reason=self._said_bye)
        else:
            self._store.declare_own_loss(writer.fence, evidence=evidence)
        while self._store.close_lost(writer.fence.incarnation, by="witness").more:
            pass
        return 0

    def _stop_children(self) -> bool:
        for child in self._children.values():
            child.kill()
        return all(child.wait(KILL_SECONDS) for child in self._children.values())


def _is_news(answer: Any) -> bool:
    """The parent takes a claim for granted as attempt 1, and an outcome for closed."""
    if answer.kind == "granted":
        return bool(answer.number != 1 or answer.reason)
    return bool(answer.kind != "closed")


def _name_process() -> None:
    """A clear name in `ps` and `top`; signals meant for the worker's group are not for us."""
    if LINUX:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(15, b"crisper-record", 0, 0, 0)  # PR_SET_NAME
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def main() -> None:
    _name_process()
    threading.excepthook = lambda args: os._exit(70)
    try:
        code = Recorder().run()
    except Exception:
        traceback.print_exc(file=sys.stderr)
        code = 70  # EX_SOFTWARE: the parent starts another
    os._exit(code)
