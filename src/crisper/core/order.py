"""Which records may be written together without changing what each of them means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from crisper.core.model import Answer, Checkpoint, ChildLost, Claim, Finish, Note, Record, Start

#: In a segment, all records of one kind are written at once, the kinds in this order.
_RANK: dict[type[Record], int] = {Claim: 0, Start: 1, Checkpoint: 2, Finish: 3, ChildLost: 4, Note: 5}


def segments(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Cut before a record that its task's earlier ones in the segment would then overtake."""
    segment: list[Record] = []
    reached: dict[str, int] = {}
    for record in records:
        rank = _RANK[type(record)]
        if record.task_id is not None and not isinstance(record, Note):
            if rank < reached.get(record.task_id, 0):
                yield segment
                segment, reached = [], {}
            reached[record.task_id] = rank
        segment.append(record)
    if segment:
        yield segment


def late_of(records: Sequence[Record]) -> list[Finish]:
    """The outcomes among records that came after the fence; those of claims that a journal let run go on
    under another fence, and are none."""
    going_on = {record.seq for record in records if isinstance(record, Claim) and record.provisional}
    return [one for one in records if isinstance(one, Finish) and one.claim_seq not in going_on]


def in_order(answers: Iterable[Answer], records: Sequence[Record]) -> list[Answer]:
    """The answers in the order of what they answer; segments are written by kind."""
    places: dict[int, list[int]] = {}
    for place, record in enumerate(records):
        if not isinstance(record, Start):
            places.setdefault(record.seq, []).append(place)
    placed = [(places[answer.seq].pop(0), answer) for answer in answers]
    return [answer for _, answer in sorted(placed)]
