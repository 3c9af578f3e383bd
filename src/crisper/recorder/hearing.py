"""What the worker's processes say of attempts, on its way to the writer."""

from __future__ import annotations

from typing import Any

from crisper.core.model import Progress
from crisper.core.size import for_memory
from crisper.core.verdict import KILLED_FOR
from crisper.engine.running import Run, last_known
from crisper.engine.writer import Writer
from crisper.recorder import wire
from crisper.recorder.desk import Desk, monotonic_ms
from crisper.recorder.records import read_word
from crisper.recorder.reply import Reply
from crisper.recorder.witness import Process, process_start

#: In Celery's word of how a pool process ended, where a signal that nothing can catch ended it.
KILLED = "SIGKILL"


class Hearing(Desk):
    """Records of the parent, words of its children."""

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
        """Of the parent as it was found, of a pool process by what it said at its fork; else by looking."""
        if self._parent is not None and pid == self._parent.pid:
            return self._parent.start or 0
        child = self._children.get(pid)
        return (child.start if child is not None else process_start(pid)) or 0
