"""The end: the parent has hung up, or is dead."""

from __future__ import annotations

import random
import time
from typing import Any

from crisper.core.size import for_memory
from crisper.core.verdict import KILLED_FOR
from crisper.engine.recording import Recording
from crisper.errors import Fenced, RegistryUnreachable
from crisper.recorder.desk import monotonic_ms
from crisper.recorder.writing import KILL_SECONDS, Writing
from crisper.store.base import Store

#: How long a recorder whose parent is dead tries to reach the registry before it
#: leaves the verdict to the lease.
LAST_WORDS_SECONDS = 60.0


class LastWords(Writing):
    """What is known is written, and the death is declared with its evidence."""

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

    def _stop_children(self) -> bool:
        for child in self._children.values():
            child.kill()
        return all(child.wait(KILL_SECONDS) for child in self._children.values())
