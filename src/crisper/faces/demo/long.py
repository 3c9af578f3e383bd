"""The long round: one task reads many documents, its worker is killed, and it goes on where it died."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from crisper.faces.cli.output import lines
from crisper.faces.cli.text import plural
from crisper.faces.demo.app import DOCUMENTS, READING_SECONDS
from crisper.faces.demo.ledger import Line
from crisper.faces.demo.stage import Stage

if TYPE_CHECKING:
    from rich.console import Console

    from crisper.faces.demo.telling import Telling

#: So many are read before the kill.
BEFORE_THE_KILL = 20
FINISH_SECONDS = 30.0


@dataclass(frozen=True)
class Resumed:
    """What became of the task, by its own ledger."""

    documents: int
    read: int  # different ones
    read_twice: int
    died_at: int  # how many were read when its worker was killed
    resumed_at: int | None  # where its next attempt began; None if there was none
    seconds_to_resume: float | None


class LongRound:
    """One round on its stage, with Crisper."""

    def __init__(self, stage: Stage, telling: Telling) -> None:
        self._stage, self._telling = stage, telling

    def play(self) -> Resumed:
        stage, telling = self._stage, self._telling
        telling.say("two workers start")
        stage.start_workers("first", "second")
        telling.say(f"one task is to read {DOCUMENTS} documents, {READING_SECONDS:g} s each")
        stage.publish(DOCUMENTS, "shop.read_documents")
        stage.wait("the first documents", lambda: len(self._read()) >= BEFORE_THE_KILL, FINISH_SECONDS)
        worker = stage.worker(self._read()[-1].worker)
        killed_at = worker.kill()
        died_at = len(self._read())
        telling.say(f"kill -9 {worker.process.pid}: {worker.name} is dead, {died_at} are read", style="red")
        again = stage.poll(self._second_start, FINISH_SECONDS)
        seconds = None if again is None else round(again.at - killed_at, 2)
        if again is not None:
            telling.say(f"{seconds:.1f} s after the kill: {again.worker} goes on", style="green")
        stage.poll(lambda: bool(stage.ledger().ended()), FINISH_SECONDS)
        read = [line.order for line in self._read()]
        telling.say(f"{len(set(read))} of {DOCUMENTS} are read")
        resumed_at = None if again is None else again.order
        return Resumed(DOCUMENTS, len(set(read)), len(read) - len(set(read)), died_at, resumed_at, seconds)

    def _read(self) -> list[Line]:
        return [line for line in self._stage.ledger().lines if line.event == "read"]

    def _second_start(self) -> Line | None:
        starts = [line for line in self._stage.ledger().lines if line.event == "start"]
        return starts[1] if len(starts) > 1 else None


def shown(result: Resumed) -> bool:
    """Whether all was read, and at most the one document at which it died was read twice."""
    went_on = result.resumed_at is not None and result.resumed_at >= result.died_at - 1
    return went_on and result.read == result.documents and result.read_twice <= 1


def as_json(result: Resumed) -> dict[str, Any]:
    """The shape that docs/reference/json.md promises."""
    return {"long": asdict(result)}


def report(out: Console, result: Resumed) -> None:
    out.print()
    if not shown(result):
        twice = plural(result.read_twice, "document")
        lines(
            out,
            f"Of {result.documents} documents {result.read} were read, {twice} twice. That is a defect:"
            " please report it with what you see here.",
        )
        return
    lines(
        out,
        f"Its worker died after {plural(result.died_at, 'document')}; the next attempt went on at"
        f" document {(result.resumed_at or 0) + 1}. All {result.documents} were read,"
        f" {result.read_twice or 'none'} of them twice.",
        "The task keeps a checkpoint after each document, and begins at the last one:",
    )
    out.print(
        "\n  done = crisper.current_attempt().last_checkpoint or 0\n"
        "  for number in range(done, len(documents)):\n"
        "      read(documents[number])\n"
        "      crisper.current_attempt().checkpoint(number + 1)\n"
    )
