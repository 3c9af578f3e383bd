"""Committing what was heard, answering, and saying goodbye."""

from __future__ import annotations

import contextlib
import random
import time
from typing import Any

from crisper.engine.recording import Recording
from crisper.errors import Fenced, JournalError, RegistryUnreachable
from crisper.recorder import wire
from crisper.recorder.desk import monotonic_ms
from crisper.recorder.enrolling import Enrolling
from crisper.store.base import Store

#: Past the trust window nothing new is claimed; how soon to look again whether the lease was renewed.
UNTRUSTED_SECONDS = 0.05
#: Between two tries to write, where no journal stands in; a random part of it.
RETRY_SECONDS = 0.4
#: Until what was told to end has ended.
KILL_SECONDS = 5.0
#: Published messages that go into the journal together.
PUBLISHED_AT_ONCE = 500


class Writing(Enrolling):
    """One commit at a time; what arrives meanwhile is the next one."""

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
        began = time.monotonic()
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
        self._busy, self._commit_seconds = written.records > 1, time.monotonic() - began
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

    def _stand_in(self, recording: Recording) -> None:
        with contextlib.suppress(RegistryUnreachable, JournalError, OSError):
            recording.stand_in(monotonic_ms())
            if self._said_bye is not None:
                recording.end(self._said_bye)

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


def _is_news(answer: Any) -> bool:
    """The parent takes a claim for granted as attempt 1, and an outcome for closed."""
    if answer.kind == "granted":
        return bool(answer.number != 1 or answer.reason)
    return bool(answer.kind != "closed")
