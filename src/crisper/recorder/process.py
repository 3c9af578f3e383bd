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
import random
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from typing import Any

from crisper.core.model import Fence, Progress, Published, Pulse, Sighting
from crisper.core.size import for_memory
from crisper.core.verdict import KILLED_FOR
from crisper.engine.circuit import Circuit
from crisper.engine.deadline import Watchdog
from crisper.engine.journal import Journal
from crisper.engine.oom import OomWatch
from crisper.engine.recording import Recording
from crisper.engine.running import Run, Running, last_known
from crisper.engine.sign import Sign
from crisper.engine.wedged import Loop
from crisper.engine.window import Window
from crisper.engine.writer import Writer
from crisper.errors import Fenced, JournalError, RegistryUnreachable
from crisper.recorder import wire
from crisper.recorder.cgroup import own_cgroup
from crisper.recorder.enrollment import Away, Enrolled, Enrollment, Moved, Outcome, Over, Refused
from crisper.recorder.journals import life_of, open_journal, process_of, window_of
from crisper.recorder.pulse import PulseThread, Stop
from crisper.recorder.records import Reader, read_word
from crisper.recorder.reply import ANCILLARY, Reply, descriptor
from crisper.recorder.sign import SignThread
from crisper.recorder.stacks import Stacks
from crisper.recorder.watch import WatchThread
from crisper.recorder.watch_attempts import AttemptWatch
from crisper.recorder.witness import LINUX, Process, is_stopped, look_at, process_start
from crisper.store.base import Store
from crisper.store.database import Place
from crisper.store.open import open_store

#: File descriptors that the parent leaves us: the wire, the children's
#: datagrams, the pipe on which we show that this thread goes round, and the file
#: into which the worker's processes write their stacks.
WIRE_FD, WORDS_FD, ALIVE_FD, STACKS_FD = 3, 4, 5, 6

#: Client-side deadline of one registry call, in seconds; the parent replaces a
#: recorder that has been silent for longer than this.
CALL_SECONDS = 5.0
ALIVE_EVERY = 1.0
#: When busy, wait this long for more before a commit (a commit per task costs
#: more CPU on both sides than its disk write costs time).
LINGER, LINGER_RECORDS = 0.002, 64
#: Past the trust window nothing new is claimed; how soon to look again whether the lease was renewed.
UNTRUSTED_SECONDS = 0.05
#: Between two tries to write, where no journal stands in; a random part of it.
RETRY_SECONDS = 0.4
#: Published messages that go into the journal together.
PUBLISHED_AT_ONCE = 500
#: What was seen of the worker while the registry is away, at most; then the oldest is forgotten.
MOST_TESTIMONY = 1000
MOVED = (
    "another server answers in the registry's place, or it went back in time (failover): this worker enrolls"
    " there, and writes again what was committed lately"
)
#: How long a recorder whose parent is dead tries to reach the registry before it
#: leaves the verdict to the lease.
LAST_WORDS_SECONDS = 60.0
KILL_SECONDS = 5.0


#: In Celery's word of how a pool process ended, where a signal that nothing can catch ended it.
KILLED = "SIGKILL"


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

    # -- the loop -------------------------------------------------------------

    def run(self) -> int:
        alive_at = 0.0
        while True:
            now = time.monotonic()
            if now >= alive_at:
                alive_at = now + ALIVE_EVERY
                with contextlib.suppress(BlockingIOError, BrokenPipeError):
                    os.write(ALIVE_FD, b".")
                self._look_at_processes()
            self._wait(alive_at)
            self._turned_ms = monotonic_ms()
            if self._parent is not None and not self._parent.is_alive():
                return self._witness()
            if not self._wire_open:
                return self._after_the_wire()
            self._take_outcomes()
            self._write()
            self._pause()
            self._deliver_mail()
            self._send()

    def _look_at_processes(self) -> None:
        """Once a second: their memory, and whether one is gone whose parent believes it busy."""
        now = monotonic_ms()
        self._oom.look(now)
        unnoticed = self._running.look(now, look_at, self._tick[0] if self._tick else 0)
        if unnoticed:
            self._tell((wire.DEAD, [tuple(one) for one in unnoticed]))

    def _wait(self, until: float) -> None:
        timeout = max(0.0, until - time.monotonic())
        if self._recording is not None:
            due = self._recording.due(monotonic_ms())
            if due is not None:
                timeout = min(timeout, max(due / 1000, self._write_after - time.monotonic()))
        self._select(timeout)
        if self._busy and self._recording is not None:
            self._linger(self._recording.writer)

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
                data, ancillary, _, _ = self._words.recvmsg(65536, ANCILLARY)
                reply = Reply(descriptor(ancillary))
                item = marshal.loads(data)
            except (BlockingIOError, EOFError, ValueError, TypeError):
                return
            self._take_word(item, reply)

    def _take_word(self, item: tuple[Any, ...], reply: Reply) -> None:
        if item[0] == wire.CHILD:
            self._know_child(item[1])
        elif item[0] == wire.NOTED:
            self._noted(item)
        elif item[0] == wire.PROGRESS:
            self._running.heard(item[1], Progress(*item[2:]), monotonic_ms())
        elif item[0] == wire.CHECKPOINT:
            self._save(item, reply)
        elif item[0] == wire.WORD and self._recording is not None:
            word = read_word(item)
            if word is not None:
                self._recording.writer.heard(monotonic_ms(), word)

    def _save(self, item: tuple[Any, ...], reply: Reply) -> None:
        """One that comes before there is a fence is not answered: whoever waits for it asks again."""
        if self._recording is None or self._reader is None:
            return
        _, seq, task_id, data, waits = item
        made = (seq, task_id, data, self._reader.preview(data))
        self._recording.writer.checkpoints.save(monotonic_ms(), *made, reply if waits else None)

    def _noted(self, item: tuple[Any, ...]) -> None:
        """A message was published in one of our processes."""
        note = self._parts.take(item)
        if note is None or self._reader is None or not self._hello:
            return
        hello = self._hello
        published = self._reader.published(note, hello["incarnation"]["scope"], hello["loss_budget"])
        if self._pulse is None or not self._circuit.closed or not self._pulse.published(published):
            self._published.append(published)

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
            self._tick, self._stands = (item[1], item[2]), ""
        elif kind == wire.STANDS:
            self._stands, self._stood_at, self._stack = item[2], item[1], item[3]
        elif kind == wire.SILENT:
            self._silent = item
        elif kind == wire.LONG:
            self._long = item
        elif kind == wire.BYE:
            self._said_bye = item[1]
        elif self._recording is None:
            self._early.append(item)
        elif kind == wire.DROP:
            self._recording.writer.drop(item[1])
        elif kind == wire.ASK:
            self._ask(item)
        else:
            self._record(self._recording.writer, item)

    def _ask(self, item: tuple[Any, ...]) -> None:
        if self._pulse is not None:
            self._pulse.ask(item)
        else:
            self._tell((wire.TOLD, item[1], False, "RegistryUnreachable: the registry has not answered yet"))

    def _record(self, writer: Writer, item: tuple[Any, ...]) -> None:
        assert self._reader is not None
        if item[0] == wire.START:
            at, kind_fields = item[1], item[2:]
            claim_seq, task_id, pid = kind_fields
            pid_start = self._start_of(pid) if pid else 0
            item = (wire.START, at, claim_seq, task_id, pid, pid_start)
            if pid:
                own = self._parent is not None and pid != self._parent.pid
                self._running.began(claim_seq, task_id, pid if own else 0, pid_start)
        elif item[0] in (wire.FINISH, wire.CHILD_LOST):
            run = self._running.ended(item[3])
            if run is not None and item[0] == wire.CHILD_LOST:
                *about, evidence = item
                item = (*about, {**evidence, **last_known(run), **self._why_it_died(run, evidence)})
        at, record = self._reader.read(item)
        writer.add(at, record, again=item[0] == wire.CLAIM_AGAIN)

    def _why_it_died(self, run: Run, evidence: dict[str, Any]) -> dict[str, str]:
        """Killed for memory, if the kernel says that it killed just then; any other signal is somebody's."""
        now = monotonic_ms()
        may_be = KILLED in str(evidence.get("error")) or "unnoticed" in evidence
        if not (may_be and self._oom.accounts_for(run.gone_at or now, now)):
            return {}
        return {KILLED_FOR: for_memory(run.memory, self._cgroup.limit() if self._cgroup else None)}

    def _start_of(self, pid: int) -> int:
        """Of a pool process by what it said at its fork; of the parent itself by looking."""
        child = self._children.get(pid)
        return (child.start if child is not None else process_start(pid)) or 0

    def _greeted(self, hello: dict[str, Any]) -> None:
        """A parent presents itself; again, with a new incarnation, after it was fenced."""
        self._retire()
        self._keep_late()
        self._running.clear()
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
        if self._sign is None and hello["probe_dir"]:
            self._sign = SignThread(
                hello["probe_dir"], process_of(hello), self._look, self._trouble_with_sign
            )
            self._sign.start()
        if self._watch is None:
            self._watch = self._watch_over(self._parent, hello)
            self._watch.start()
        if self._journal is None and hello["journal_dir"]:
            self._journal = open_journal(hello, self._trouble_with_journal)
            self._window = window_of(hello) if self._journal is not None else None
        self._enrollment = Enrollment(hello, self._watchdog, self._circuit, self._enrolled)
        self._enrollment.start()

    def _watch_over(self, parent: Process, hello: dict[str, Any]) -> WatchThread:
        stacks = Stacks(STACKS_FD, hello["stack_signal"])
        attempts = AttemptWatch(
            stacks,
            long=lambda: self._long,
            quiet=self._running.quiet,
            process=lambda pid: self._children.get(pid, parent),
            stop=self._stops.append,
            may_act=self._may_act,
            testify=self._testimony.append,
            tell=self._tell,
        )
        return WatchThread(
            hello,
            parent,
            stacks,
            attempts,
            loop=self._loop,
            silent=lambda: self._silent,
            may_act=self._may_act,
            testify=self._testimony.append,
            tell=self._tell,
        )

    def _loop(self) -> tuple[Loop, str]:
        """How the parent's loop stands, and its stack if it sent one. From the watching thread."""
        tick = self._tick
        ticked = tick[0] if tick else 0
        return Loop(monotonic_ms(), ticked, self._stood_at, self._stands), self._stack

    def _may_act(self) -> bool:
        """Whether the incarnation holds its lease: who is fenced ends nothing. From any thread."""
        pulse = self._pulse
        return pulse is not None and pulse.trusted()

    def _trouble_with_journal(self, sentence: str) -> None:
        self._tell((wire.LOG, "error", sentence))

    def _trouble_with_sign(self, sentence: str) -> None:
        self._tell((wire.LOG, "warning", sentence))

    def _look(self) -> Sign | None:
        """The worker as it is now; None while it is nobody. From the sign's thread."""
        hello, recording, tick = self._hello, self._recording, self._tick
        if not hello:
            return None
        one, where = hello["incarnation"], ""
        if recording is not None and not self._paused:
            where = "registry" if self._circuit.closed else "journal"
        return Sign(
            worker=hello["nodename"],
            pid=one["pid"],
            pid_start=one["pid_start"],
            pid_namespace=one["pid_namespace"],
            at=monotonic_ms(),
            turned=self._turned_ms,
            ticked=tick[0] if tick else self._began_ms,
            stands=self._stands,
            stood_at=self._stood_at,
            records=where,
            consumes=bool(tick and tick[1].get("consuming")),
            why=self._paused or "",
        )

    def _keep_late(self) -> None:
        """What a fenced incarnation still said before its parent knew: its outcomes are kept as events."""
        early, self._early = self._early, []
        over, store = self._over, self._store
        if over is None:
            return
        for item in early:
            if item[0] == wire.FINISH:
                self._record(over.writer, item)
        with contextlib.suppress(RegistryUnreachable, JournalError, OSError), self._within():
            over.keep_late(monotonic_ms())
        if store is not None:
            store.close()
        self._store = None

    def _within(self) -> Any:
        """A call's deadline, where there is somebody to call."""
        return self._watchdog.call(self._store) if self._store is not None else contextlib.nullcontext()

    def _retire(self) -> None:
        if self._enrollment is not None:
            self._enrollment.stop()
        if self._pulse is not None:
            self._pulse.stop()
        self._pulse = self._recording = self._enrollment = None

    # -- getting the fence ----------------------------------------------------

    def _enrolled(self, enrollment: Enrollment, outcome: Outcome) -> None:
        """From the enrolling thread."""
        self._outcomes.append((enrollment, outcome))
        self._wake()

    def _take_outcomes(self) -> None:
        while self._outcomes:
            enrollment, outcome = self._outcomes.popleft()
            if enrollment is not self._enrollment:
                if isinstance(outcome, Enrolled):
                    outcome.store.close()
                continue
            match outcome:
                case Enrolled(store, fence, place):
                    self._start(store, fence, place)
                case Away(why):
                    self._start_without(why)
                case Over():
                    self._be_over()
                case Moved():
                    self._move()
                case Refused(why):  # the worker ends with this sentence
                    self._hello = {}
                    self._tell((wire.FATAL, str(why), why.exit_code))

    def _moved(self) -> None:
        """From the pulse thread: another server answers in the registry's place."""
        if self._enrollment is not None:
            self._enrolled(self._enrollment, Moved())

    def _move(self) -> None:
        """Enroll there, and write again what it may not have."""
        recording = self._recording
        if recording is None or self._store is None:
            return  # we are at it
        self._tell((wire.LOG, "warning", MOVED))
        generation = max(1, recording.writer.fence.generation)
        self._hello = {**self._hello, "generation": generation, "starting": False, "moved": True}
        if self._pulse is not None:
            self._pulse.stop()
            self._published += self._pulse.unwritten()
        self._store.close()
        self._pulse = self._store = None
        recording.move()
        self._enrollment = Enrollment(self._hello, self._watchdog, self._circuit, self._enrolled)
        self._enrollment.start()

    def _be_over(self) -> None:
        if self._recording is None:
            self._record_with(None, Fence(self._hello["incarnation"]["id"], 0))
        self._tell((wire.FENCED, self._hello["incarnation"]["id"]))

    def _start_without(self, why: RegistryUnreachable) -> None:
        """The registry is away from the start: where there is a journal, nobody waits for it."""
        self._trouble(why)
        if self._recording is None and self._journal is not None:
            generation = self._hello["generation"]
            self._record_with(None, Fence(self._hello["incarnation"]["id"], generation))
            self._tell((wire.READY, generation))

    def _start(self, store: Store, fence: Fence, place: Place) -> None:
        hello = self._hello
        self._store, self._place = store, place
        self._pulse = PulseThread(
            open_store(
                hello["registry_url"],
                application_name=f"crisper {hello['nodename']}",
                within=self._watchdog.call,
                place=place,
            ),
            fence,
            hello,
            parent_stopped=lambda: is_stopped(hello["incarnation"]["pid"]),
            beating=self._beating,
            ticked=lambda: self._tick[0] if self._tick else 0,
            tell=self._tell,
            circuit=self._circuit,
            moved=self._moved,
            testimony=self._testimony,
            stops=self._stops,
        )
        self._tell((wire.READY, fence.generation))
        if self._recording is None:
            self._record_with(store, fence)
        else:
            self._recording.use(store, fence)
        self._untroubled()
        self._pulse.start()

    def _record_with(self, store: Store | None, fence: Fence) -> None:
        hello, over = self._hello, self._over
        writer = Writer(
            store,
            fence,
            renewing=lambda: self._pulse.renewing if self._pulse is not None else (),
            on_error=lambda sentence: self._tell((wire.TROUBLE, sentence)),
            strict=hello["strict"],
        )
        self._recording = Recording(
            writer,
            store,
            self._circuit,
            self._journal,
            life_of(hello),
            window=self._window,
            may_forget=lambda: self._place is not None and self._place.replicated,
            on_error=lambda sentence: self._tell((wire.LOG, "error", sentence)),
        )
        if over is not None:
            self._recording.inherit(over)
            self._over = None
        early, self._early = self._early, []
        for item in early:
            self._take(item)

    def _beating(self) -> Pulse:
        tick = self._tick
        age = monotonic_ms() - tick[0] if tick else None
        detail = dict(tick[1]) if tick else {}
        if self._recording is not None and self._recording.backlog:
            detail["journal"] = self._recording.state.journal_bytes
        if self._watch is not None and (named := self._watch.named()):
            detail["ails"] = [one.told(monotonic_ms()) for one in named]
        start = process_start(os.getpid()) or 0
        return Pulse(os.getpid(), start, age, detail, self._running.told(monotonic_ms()))

    # -- committing and answering ---------------------------------------------

    def _write(self) -> None:
        recording, pulse = self._recording, self._pulse
        if recording is None or time.monotonic() < self._write_after:
            return
        self._journal_published(recording)
        due = recording.due(monotonic_ms())
        if due is None or due > 0:
            if self._said_bye is not None:
                self._goodbye(recording)
            return
        trusted = pulse is not None and pulse.trusted()
        if pulse is not None and not trusted and self._circuit.closed:
            pulse.hurry()
            self._write_after = time.monotonic() + UNTRUSTED_SECONDS
        try:
            with self._within():
                written = recording.write(monotonic_ms(), claims=trusted)
        except RegistryUnreachable as exc:
            self._trouble(exc)
            self._write_after = time.monotonic() + random.uniform(0.5, 1.0) * RETRY_SECONDS
            return
        except Fenced:
            self._tell((wire.FENCED, recording.writer.fence.incarnation))
            return
        if recording.has_moved:
            self._move()
        if recording.backlog:
            self._trouble(RegistryUnreachable("the registry does not answer"))
        else:
            self._untroubled()
        self._busy = written.records > 1
        answers = [tuple(a) for a in written.answers if _is_news(a)]
        self._out += wire.frame([(wire.ANSWERS, written.durable, wire.plain(answers))])

    def _journal_published(self, recording: Recording) -> None:
        """What the pulse thread has no room for."""
        while self._published:
            batch = self._published[:PUBLISHED_AT_ONCE]
            try:
                recording.publish(monotonic_ms(), batch)
            except (JournalError, OSError) as exc:
                sentence = f"{len(self._published)} messages are published without a record: {exc}"
                self._published.clear()
                self._tell((wire.LOG, "error", sentence))
                return
            del self._published[: len(batch)]

    def _goodbye(self, recording: Recording) -> None:
        """All that came before the goodbye is written; now the incarnation ends cleanly."""
        reason = self._said_bye or ""
        try:
            if recording.backlog or self._store is None:
                raise RegistryUnreachable("the registry is away")
            with self._within():
                self._write_published(self._store)
                self._store.say_goodbye(recording.writer.fence, reason=reason)
                while self._store.close_lost(recording.writer.fence.incarnation, by="goodbye").more:
                    pass
        except RegistryUnreachable:
            if self._journal is None:
                return  # tried again until the parent has gone
            self._stand_in(recording)
        else:
            self._forget_journal()
        self._retire_after_goodbye(recording)

    def _retire_after_goodbye(self, recording: Recording) -> None:
        self._retire()
        self._hello = {}
        if recording.backlog:
            self._recording = recording  # for the last writes, once the parent has hung up
        self._out += wire.frame([(wire.TOLD, 0, True, "goodbye")])

    def _forget_journal(self) -> None:
        if self._journal is not None:
            self._journal.remove()
            self._journal = None

    def _pause(self) -> None:
        """Tell the worker to take no more messages, and when to go on."""
        why = self._why_pause()
        known = bool(why) or self._recording is not None
        if known and why != self._paused:
            self._paused = why
            self._tell((wire.PAUSE, why))

    def _why_pause(self) -> str:
        if self._circuit.closed or not self._hello:
            return ""
        if self._journal is None:
            return "the registry does not answer"
        return self._recording.state.trouble if self._recording is not None else ""

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

    def _tell(self, item: tuple[Any, ...]) -> None:
        """Queue an item for the parent, from any thread."""
        self._mail.append(item)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b".")

    def _deliver_mail(self) -> None:
        items = []
        while self._mail:
            items.append(self._mail.popleft())
        recording = self._recording
        if recording is not None and (wire.FENCED, recording.writer.fence.incarnation) in items:
            self._over = recording
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
        if self._said_bye is not None:
            self._end_sign()
        if self._said_bye is not None and self._recording is not None:
            return self._last_writes(self._recording, {})
        self._retire()
        return 0

    def _witness(self) -> int:
        """The parent is dead. Make sure of its children, write what is known, declare it."""
        died_at = monotonic_ms()
        self._end_sign()
        while self._wire_open and self._read_wire():
            pass
        self._take_outcomes()
        if self._pulse is not None:
            self._pulse.stop()
        stopped = self._stop_children()
        self._read_words()
        recording = self._recording
        if recording is None or not stopped:
            return 0  # nothing was ours to declare, or it cannot be sure: the lease decides
        recording.writer.last_words(monotonic_ms())
        assert self._parent is not None
        evidence = {
            "how": "witnessed by its recorder",
            "pid": self._parent.pid,
            "pid_start": self._parent.start,
            "children_stopped": len(self._children),
        }
        if self._oom.accounts_for(died_at, monotonic_ms()):
            evidence[KILLED_FOR] = for_memory(None, self._cgroup.limit() if self._cgroup else None)
        return self._last_writes(recording, evidence)

    def _end_sign(self) -> None:
        if self._watch is not None:
            self._watch.stop()
        if self._sign is not None:
            self._sign.end()

    def _last_writes(self, recording: Recording, evidence: dict[str, Any]) -> int:
        """Everything that is known, then the end itself; as long as the registry may come back. What is
        in the journal then is for whoever adopts it."""
        give_up = time.monotonic() + LAST_WORDS_SECONDS
        self._journal_published(recording)
        while self._store is not None and time.monotonic() < give_up:
            try:
                with self._watchdog.call(self._store):
                    return self._declare(self._store, recording, evidence)
            except RegistryUnreachable:
                self._stand_in(recording)
                time.sleep(random.uniform(0.1, 0.3))
            except Fenced:
                break
        self._stand_in(recording)
        return 0

    def _stand_in(self, recording: Recording) -> None:
        with contextlib.suppress(RegistryUnreachable, JournalError, OSError):
            recording.stand_in(monotonic_ms())
            if self._said_bye is not None:
                recording.end(self._said_bye)

    def _declare(self, store: Store, recording: Recording, evidence: dict[str, Any]) -> int:
        self._write_published(store)
        self._circuit.reset()
        while recording.backlog or recording.due(monotonic_ms()) == 0:
            recording.write(monotonic_ms())
            if not self._circuit.closed:
                raise RegistryUnreachable("the registry is away again")
        fence = recording.writer.fence
        store.testify(fence, list(self._testimony))
        if self._said_bye is not None:
            store.say_goodbye(fence, reason=self._said_bye)
        else:
            store.declare_own_loss(fence, evidence=evidence)
        while store.close_lost(fence.incarnation, by="witness").more:
            pass
        self._forget_journal()
        return 0

    def _write_published(self, store: Store) -> None:
        """What the pulse thread did not come to: it stops here."""
        pulse, self._pulse = self._pulse, None
        if pulse is not None:
            pulse.stop()
            pulse.join(KILL_SECONDS)
            self._last_published = pulse.unwritten(), int(self._hello["redelivery_grace"] * 1000)
        messages, grace_ms = self._last_published
        store.publish(messages, due_in_ms=grace_ms)
        self._last_published = [], 0

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
