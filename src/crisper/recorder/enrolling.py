"""Getting a fence, losing it, and getting another."""

from __future__ import annotations

import contextlib
import selectors
from typing import Any

from crisper.core.model import Fence
from crisper.engine.recording import Recording
from crisper.engine.writer import Writer
from crisper.errors import JournalError, RegistryUnreachable
from crisper.recorder import wire
from crisper.recorder.desk import monotonic_ms
from crisper.recorder.enrollment import Away, Enrolled, Enrollment, Moved, Outcome, Over, Refused
from crisper.recorder.journals import life_of, open_journal, process_of, window_of
from crisper.recorder.observing import Observing
from crisper.recorder.pulse import PulseThread
from crisper.recorder.records import Reader
from crisper.recorder.sign import SignThread
from crisper.recorder.witness import Process, is_stopped
from crisper.store.base import Store
from crisper.store.database import Place
from crisper.store.open import open_store

MOVED = (
    "another server answers in the registry's place, or it went back in time (failover): this worker enrolls"
    " there, and writes again what was committed lately"
)


class Enrolling(Observing):
    """From the parent's greeting to a writer that may write."""

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

    def _retire(self) -> None:
        if self._enrollment is not None:
            self._enrollment.stop()
        if self._pulse is not None:
            self._pulse.stop()
        self._pulse = self._recording = self._enrollment = None

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
