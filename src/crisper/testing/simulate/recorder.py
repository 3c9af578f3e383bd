"""The recorder, as `crisper.recorder.process` joins the engine's parts; the parts are the real ones."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from crisper.core.model import ChildLost, Fence, Finish, Pulse, Record, Start
from crisper.engine.circuit import Circuit
from crisper.engine.journal import Journal
from crisper.engine.lines import Life as LifeLine
from crisper.engine.recording import Recording
from crisper.engine.running import Running, Seen
from crisper.engine.writer import Writer
from crisper.errors import Fenced, JournalError, RegistryUnreachable
from crisper.recorder.enrollment import fence_of
from crisper.testing.simulate.last import LastWrites
from crisper.testing.simulate.place import MOST_BYTES, Host
from crisper.testing.simulate.pulse import PulseTurns
from crisper.testing.simulate.registry import Line
from crisper.testing.simulate.saving import Saving
from crisper.testing.simulate.world import Process, Thread

if TYPE_CHECKING:
    from crisper.testing.simulate.life import Life, Site

#: Milliseconds: `recorder.writing.RETRY_SECONDS`, `UNTRUSTED_SECONDS`.
RETRY_MS, UNTRUSTED_MS = 250, 50
#: Between two looks at the pool's processes.
LOOK_MS = 1_000
REGISTRY = "simulated"


class Recorder:
    """One process beside a parent; `main` is its loop, `pulse` its second thread, `enroll` its third."""

    def __init__(self, site: Site, life: Life, number: int) -> None:
        self.site, self.life, self.world = site, life, site.world
        self.host: Host = life.host
        self.process: Process = self.host.process(f"{life.name}/rec{number}")
        self.pid = self.host.new_pid(self.process)
        self.main = Thread(self.process, self.process.name)
        self.enrolling = Thread(self.process, f"{self.process.name}/enroll")
        self.inbox: list[Any] = []
        self.circuit = Circuit(self.host.seconds, seed=self.world.rng.getrandbits(32))
        self.hello: dict[str, Any] = {}
        self.recording: Recording | None = None
        self.over: Recording | None = None
        self.inherited = False  # the journal holds what a fenced incarnation was let run
        self.pulse: PulseTurns | None = None
        self.journal: Journal | None = None
        self.store: Any = None
        self.early: list[Any] = []
        self.said_bye: str | None = None
        self._wakes_at: int | None = None
        self._write_after = 0
        self._paused: str | None = None  # a recorder before us may have told the worker to pause
        self.last: LastWrites | None = None
        self.running = Running()
        self.blind_until = 0  # until then it sees no process, and takes all of them for gone
        if site.more is not None:
            self.world.after(LOOK_MS, self.main, self._look_at_processes)

    def line(self, thread: Thread) -> Any:
        return Line(self.world, self.site.registry, thread, self.host, self.site.plan)

    def trusts(self, incarnation: str) -> bool:
        pulse = self.pulse
        return pulse is not None and pulse.fence.incarnation == incarnation and pulse.heartbeat.trusted()

    # -- the loop -------------------------------------------------------------

    def wake(self, ms: int) -> None:
        at = self.world.now + ms
        if self._wakes_at is None or at < self._wakes_at:
            self._wakes_at = at
            self.world.after(ms, self.main, self._turn, at)

    def _turn(self, at: int) -> None:
        if at != self._wakes_at or self.last is not None:
            return
        self._wakes_at = None
        self.read()
        self._write()
        if self.hello or self.recording is not None:
            self._say_pause()
        if self.recording is not None and self.last is None:
            due = self.recording.due(self.host.ms())
            if due is not None:
                self.wake(max(due, self._write_after - self.world.now, 1))

    def read(self) -> None:
        """What is in the wire, and what children said: words first."""
        parent = self.life.parent
        if parent is not None and parent.words:
            words, parent.words = parent.words, []
            for word in words:
                if isinstance(word, Saving):
                    self._save(word)
                elif self.recording is not None:
                    self.recording.writer.heard(self.host.ms(), word)
        if self.inbox:
            items, self.inbox = self.inbox, []
            for item in items:
                self._take(item)

    def _take(self, item: Any) -> None:
        kind, at, what = item
        if kind == "hello":
            self._greeted(what)
        elif kind == "bye":
            self.said_bye = what
        elif self.recording is None:
            self.early.append(item)
        elif kind == "drop":
            self.recording.writer.drop(what)
        else:
            self._follow(what)
            self.recording.writer.add(at, what, again=kind == "again")

    def _follow(self, record: Record) -> None:
        """Which attempt runs in which process."""
        if isinstance(record, Start) and record.pid:
            self.running.began(record.claim_seq, record.task_id, record.pid, record.pid_start)
        elif isinstance(record, Finish | ChildLost):
            self.running.ended(record.claim_seq)

    def _save(self, made: Saving) -> None:
        """One that comes before there is a fence is not answered: whoever waits for it asks again."""
        if self.recording is None:
            made.is_dropped = True
            return
        made.taken_by = self
        self.recording.writer.checkpoints.save(
            self.host.ms(), made.claim_seq, made.task_id, made.data, "", made.answer if made.waits else None
        )

    def _look_at_processes(self) -> None:
        """Once a second: whether one is gone whose parent believes it busy."""
        parent = self.life.parent
        if self.last is None and parent is not None:
            unnoticed = self.running.look(self.host.ms(), self._look_at, parent.ticked)
            if unnoticed:
                self.tell("dead", unnoticed)
            self.world.after(LOOK_MS, self.main, self._look_at_processes)

    def _look_at(self, pid: int, start: int) -> Seen:
        process = self.host.pids.get(pid)
        return Seen(self.world.now < self.blind_until or process is None or not process.alive)

    def tell(self, *item: Any) -> None:
        """Something for the parent."""
        link = self.life.parent.link  # type: ignore[union-attr]
        if link.recorder is self and self.life.process.alive:
            link.inbox.append(item)
            self.life.parent.wake(self.world.soon())  # type: ignore[union-attr]

    # -- getting the fence ----------------------------------------------------

    def _greeted(self, hello: dict[str, Any]) -> None:
        self._retire()
        self._keep_late()
        self.running.clear()
        self.hello = hello
        if self.journal is None and hello["journal"]:
            self.journal = self._open_journal()
        self.world.after(self.world.soon(), self.enrolling, self._enroll, hello)

    def _open_journal(self) -> Journal | None:
        for number in range(9):
            name = self.life.name + (f"-{number}" if number else "")
            file = self.host.disk.open(name, self.process)
            if file is not None:
                return Journal(file, most_bytes=MOST_BYTES)
        return None

    def _keep_late(self) -> None:
        early, self.early = self.early, []
        over = self.over
        if over is None:
            return
        for kind, at, what in early:
            if kind == "finish":
                over.writer.add(at, what)
        with contextlib.suppress(RegistryUnreachable, JournalError):
            over.keep_late(self.host.ms())
        self.store = None

    def _retire(self) -> None:
        if self.pulse is not None:
            self.pulse.stop()
        self.pulse = self.recording = None

    def _enroll(self, hello: dict[str, Any]) -> None:
        if hello is not self.hello or self.last is not None:
            return
        store, began = self.line(self.main), self.circuit.now()
        asking = self.line(self.enrolling)
        try:
            fence = fence_of(asking, hello)
        except RegistryUnreachable:
            if self.recording is None and self.journal is not None and hello is self.hello:
                self._record_with(None, Fence(hello["incarnation"]["id"], hello["generation"]))
                self.tell("ready", hello["generation"])
            self.world.after(int(self.circuit.trial_failed() * 1000), self.enrolling, self._enroll, hello)
            return
        if hello is not self.hello or self.last is not None:
            return
        if fence is None:
            if self.recording is None:
                self._record_with(None, Fence(hello["incarnation"]["id"], 0))
            self.fenced()
            return
        self.circuit.trial_worked(began)
        self._start(store, fence)

    def _start(self, store: Any, fence: Fence) -> None:
        self.store = store
        self.pulse = PulseTurns(self, fence)
        self.tell("ready", fence.generation)
        if self.recording is None:
            self._record_with(store, fence)
        else:
            self.recording.use(store, fence)
        self.pulse.start()
        self.wake(0)

    def _record_with(self, store: Any, fence: Fence) -> None:
        writer = Writer(
            store,
            fence,
            renewing=lambda: self.pulse.renewing if self.pulse is not None else (),
            on_error=lambda sentence: self.world.history.broken("own trouble", sentence),
        )
        line = LifeLine(self.hello["incarnation"], REGISTRY, self.hello["grace_ms"])
        clock = lambda: 10**12 + self.host.ms()  # noqa: E731
        self.recording = Recording(writer, store, self.circuit, self.journal, line, wall=clock)
        if self.over is not None:
            self.recording.inherit(self.over)
            self.inherited, self.over = self.recording.backlog, None
        early, self.early = self.early, []
        for item in early:
            self._take(item)
        self.wake(0)

    def beating(self) -> Pulse:
        recording = self.recording
        backlog = recording is not None and recording.backlog
        detail = {"journal": recording.state.journal_bytes} if backlog and recording else {}
        return Pulse(self.pid, 1, None, detail)

    # -- committing and answering ---------------------------------------------

    def _write(self) -> None:
        recording, pulse = self.recording, self.pulse
        if recording is None or self.world.now < self._write_after:
            return
        due = recording.due(self.host.ms())
        if due is None or due > 0:
            if self.said_bye is not None:
                LastWrites.goodbye(self, recording)
            return
        trusted = pulse is not None and pulse.heartbeat.trusted()
        if pulse is not None and not trusted and self.circuit.closed:
            pulse.hurry()
            self._write_after = self.world.now + UNTRUSTED_MS
        backlog = recording.backlog
        try:
            written = recording.write(self.host.ms(), claims=trusted)
        except RegistryUnreachable:
            self._write_after = self.world.now + self.world.rng.randrange(RETRY_MS // 2, RETRY_MS)
            return
        except Fenced:
            if recording is self.recording:
                self.fenced()
            return
        if recording is not self.recording:
            return
        if backlog and not recording.backlog:
            self.world.history.seen("a replay of its own journal")
            if self.inherited:
                self.world.history.seen("a replay after fencing")
                self.inherited = False
        self.world.risk(self.process, "after a commit, before it answers")
        if written.records or written.answers:
            self.tell("answers", written.durable, [a for a in written.answers if _is_news(a)])

    def fenced(self) -> None:
        """The incarnation is over: nobody to record for until the parent presents its next one."""
        recording = self.recording
        self.tell("fenced", self.hello["incarnation"]["id"] if self.hello else "")
        if recording is not None:
            self.over = recording
        self._retire()
        self.hello = {}

    def _say_pause(self) -> None:
        why = ""
        if not self.circuit.closed and self.hello:
            why = "the registry does not answer" if self.journal is None else ""
            if self.journal is not None and self.recording is not None:
                why = self.recording.state.trouble
        known = bool(why) or self.recording is not None
        if known and why != self._paused:
            self._paused = why
            self.tell("pause", why)

    # -- the end --------------------------------------------------------------

    def parent_died(self) -> None:
        """The witness: everything that is known, then the death."""
        if self.last is None:
            self.read()
            if self.pulse is not None:
                self.pulse.stop()
            self.last = LastWrites(self, self.recording)
            self.last.begin()


def _is_news(answer: Any) -> bool:
    """As `recorder.writing` has it: a claim is taken for granted as attempt 1, an outcome for closed."""
    if answer.kind == "granted":
        return bool(answer.number != 1 or answer.reason)
    return bool(answer.kind != "closed")


def word_of(claim_seq: int, task_id: str, state: Any, runtime: int) -> Finish:
    """A child's datagram, as `recorder.records.read_word` reads it."""
    return Finish(-claim_seq, claim_seq, task_id, state, "its process said so itself", runtime)
