"""Checkpoints on their way to the registry: of each attempt the last one, and who waits for it to be safe."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from crisper.core.model import Answer, Checkpoint, ChildLost, Claim, Finish, Record

#: One that nobody waits for is written so long after it was made: of a loop of them, the last.
AFTER_MS = 250
#: Their numbers are counted down from here: none of a worker's records has one of them.
_NUMBERS = -(2**60)

#: Called once, with where it is safe, `registry` or `journal`, or that it is `late`: its attempt is over.
Waits = Callable[[str], None]
Due = dict[int, tuple[int, Checkpoint]]


def is_answer(answer: Answer) -> bool:
    """Whether it answers a checkpoint."""
    return answer.seq < _NUMBERS


class Checkpoints:
    """By the claims of their attempts. Owned by the writer."""

    def __init__(self) -> None:
        self._last: Due = {}  # with when the first was made that is not written yet
        self._waiting: dict[int, list[Waits]] = {}
        self._made = 0

    def save(
        self, at: int, claim_seq: int, task_id: str, data: str, preview: str, waits: Waits | None = None
    ) -> None:
        """In the place of the attempt's earlier ones."""
        self._made += 1
        since, _ = self._last.get(claim_seq, (at, None))
        made = Checkpoint(_NUMBERS - self._made, claim_seq, task_id, data, preview)
        self._last[claim_seq] = since, made
        if waits is not None:
            self._waiting.setdefault(claim_seq, []).append(waits)

    def __len__(self) -> int:
        return len(self._last)

    def times(self) -> Iterator[int]:
        """When each is to be written."""
        return (0 if seq in self._waiting else at + AFTER_MS for seq, (at, _) in self._last.items())

    def due(self, now: int, taken: Iterable[tuple[int, Record]], later: Iterable[tuple[int, Record]]) -> Due:
        """What is waited for, has waited long enough, or would be overtaken by its attempt's end, if that is
        among the records `taken`; not what belongs to a claim that is written `later`."""
        if not self._last:
            return {}
        ends = {record.claim_seq for _, record in taken if isinstance(record, (Finish, ChildLost))}
        not_yet = {record.seq for _, record in later if isinstance(record, Claim)}
        return {
            seq: (at, made)
            for seq, (at, made) in self._last.items()
            if seq not in not_yet and (at + AFTER_MS <= now or seq in self._waiting or seq in ends)
        }

    def written(self, due: Due, where: str, answers: Iterable[Answer] = ()) -> None:
        """They are safe there, but those that were answered as late."""
        late = {answer.seq for answer in answers if answer.kind == "late"}
        for seq, (_, made) in due.items():
            self._end(seq, "late" if made.seq in late else where)

    def give_up(self, *, but: Collection[int]) -> None:
        """Their attempts are fenced, `but` those of these claims."""
        for seq in [seq for seq in self._last if seq not in but]:
            self._end(seq, "late")

    def _end(self, seq: int, word: str) -> None:
        del self._last[seq]
        for answer in self._waiting.pop(seq, ()):
            answer(word)

    def inherit(self, over: Checkpoints, claims: Collection[int]) -> None:
        """Those of claims that go on under our fence."""
        self._last.update({seq: made for seq, made in over._last.items() if seq in claims})
        self._waiting.update({seq: waits for seq, waits in over._waiting.items() if seq in claims})

    def hurry(self, now: int) -> None:
        """All of them are due."""
        self._last = {seq: (min(at, now - AFTER_MS), made) for seq, (at, made) in self._last.items()}
