"""The end of a recorder: what it writes when its parent is dead, or has said goodbye."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crisper.engine.recording import Recording
from crisper.errors import Fenced, JournalError, RegistryUnreachable

if TYPE_CHECKING:
    from crisper.testing.simulate.recorder import Recorder

#: Milliseconds: `recorder.last_words.LAST_WORDS_SECONDS`, a fifth as the lease is.
LAST_WORDS_MS = 12_000


class LastWrites:
    """As `recorder.last_words.LastWords._last_writes`, one try after another."""

    def __init__(self, recorder: Recorder, recording: Recording | None) -> None:
        self._recorder, self._recording = recorder, recording
        self._give_up = 0

    def begin(self) -> None:
        recorder = self._recorder
        if self._recording is None:
            self._exit()
            return
        if recorder.said_bye is None:
            self._recording.writer.last_words(recorder.host.ms())
        self._give_up = recorder.world.now + LAST_WORDS_MS
        self._try(self._recording)

    def _try(self, recording: Recording) -> None:
        recorder = self._recorder
        if recorder.store is None or recorder.world.now >= self._give_up:
            self._stand_in(recording)
            self._exit()
            return
        try:
            self._declare(recorder.store, recording)
        except RegistryUnreachable:
            self._stand_in(recording)
            recorder.world.after(recorder.world.rng.randrange(100, 300), recorder.main, self._try, recording)
            return
        except Fenced:
            self._stand_in(recording)
        self._exit()

    def _declare(self, store: Any, recording: Recording) -> None:
        recorder = self._recorder
        recorder.circuit.reset()
        while recording.backlog or recording.due(recorder.host.ms()) == 0:
            recording.write(recorder.host.ms())
            recorder.world.risk(recorder.process, "while it writes its last words")
            if not recorder.circuit.closed:
                raise RegistryUnreachable("the registry is away again")
        fence = recording.writer.fence
        if recorder.said_bye is not None:
            store.say_goodbye(fence, reason=recorder.said_bye)
        else:
            store.declare_own_loss(fence, evidence={"how": "witnessed by its recorder"})
            recorder.world.history.seen("a witnessed death")
        recorder.world.risk(recorder.process, "after the verdict, before its attempts are closed")
        while store.close_lost(fence.incarnation, by="witness").more:
            pass
        _forget_journal(recorder)

    def _stand_in(self, recording: Recording) -> None:
        try:
            recording.stand_in(self._recorder.host.ms())
            if self._recorder.said_bye is not None:
                recording.end(self._recorder.said_bye)
        except (RegistryUnreachable, JournalError, OSError):
            return

    def _exit(self) -> None:
        if self._recorder.journal is not None:
            self._recorder.journal.close()
        self._recorder.world.kill(self._recorder.process, "has nothing left to do")

    @staticmethod
    def goodbye(recorder: Recorder, recording: Recording) -> None:
        """All that came before the goodbye is written; now the incarnation ends in order."""
        store, said = recorder.store, recorder.said_bye
        try:
            if recording.backlog or store is None:
                raise RegistryUnreachable("the registry is away")
            store.say_goodbye(recording.writer.fence, reason=said)
            while store.close_lost(recording.writer.fence.incarnation, by="goodbye").more:
                pass
        except RegistryUnreachable:
            if recorder.journal is None:
                recorder.wake(100)
                return
            LastWrites(recorder, recording)._stand_in(recording)
        else:
            _forget_journal(recorder)
        recorder._retire()
        recorder.hello = {}
        if recording.backlog:
            recorder.recording = recording
        recorder.life.said_goodbye = True
        recorder.tell("goodbye")


def _forget_journal(recorder: Recorder) -> None:
    if recorder.journal is not None:
        recorder.journal.remove()
        recorder.journal = None
