"""The wire between a worker's parent and its recorder.

A frame is four bytes of length and a marshalled list of tuples; the first item
of each names it. Both ends are the same interpreter, so the marshal format is
one and the same (measured for one claim: marshal 1.5 µs to write and 2.4 µs to
read, JSON 5.3 and 3.9, and JSON cannot carry bytes). Nothing from outside ever
reaches `loads`: the socket pair is private to the two.

Parent to recorder                      Recorder to parent
    hello   who it works for                ready   generation
    c C s f l n records, below              fatal   sentence, exit code
    x       a parked claim is dropped       a       durable up to, answers that say more
    t       the loop's tick                 fenced  the incarnation
    i       why the loop stands still, and where if for no reason
    L       attempts that run for longer than a bound of theirs
    q       it is silent; or, without a sentence, that this is over
    ask     the courier's verbs             told    the answers to them
    bye     clean goodbye                   cases   recoveries for the courier
                                            pause   why no more messages are to be taken; empty: go on
                                            lost    messages for the courier to look for
                                            stop    attempts that a person ordered to stop
                                            dead    attempts whose process is gone, unnoticed
                                            log     level, sentence
                                            trouble an error of the recorder's own
"""

from __future__ import annotations

import marshal
import struct
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any

#: File descriptors that a parent leaves its recorder: the wire, the children's datagrams, the pipe on
#: which the recorder shows that it goes round, and the file into which the worker's processes write
#: their stacks.
WIRE_FD, WORDS_FD, ALIVE_FD, STACKS_FD = 3, 4, 5, 6

HEADER = struct.Struct("<I")

HELLO, BYE, TICK, STANDS, SILENT, LONG, DROP, ASK = "hello", "bye", "t", "i", "q", "L", "x", "ask"
CLAIM, START, FINISH, CHILD_LOST, NOTE = "c", "s", "f", "l", "n"
#: A claim that an earlier recorder had parked: its answer is news whatever it is.
CLAIM_AGAIN = "C"
READY, FATAL, ANSWERS, FENCED, TOLD, CASES, LOG = "ready", "fatal", "a", "fenced", "told", "cases", "log"
TROUBLE, UNCLAIMED, ORDERS, PAUSE, DEAD = "trouble", "lost", "stop", "pause", "dead"
#: Datagrams from a pool child; a note of a publish may take several.
WORD, CHILD, NOTED, PROGRESS, CHECKPOINT = "w", "k", "p", "g", "v"
#: Of a datagram's content: with less than half of the least that systems let a socket buffer.
PART_BYTES = 60_000


def frame(items: list[Any]) -> bytes:
    """One frame. Values that marshal does not know are made plain first."""
    try:
        data = marshal.dumps(items)
    except ValueError:
        data = marshal.dumps(plain(items))
    return HEADER.pack(len(data)) + data


def parts(sender: int, number: int, note: tuple[Any, ...]) -> Iterator[bytes]:
    """A note of a publish as datagrams, numbered by its sender."""
    data = marshal.dumps(plain(note))
    count = -(-len(data) // PART_BYTES)
    for part in range(count):
        piece = data[part * PART_BYTES : (part + 1) * PART_BYTES]
        yield marshal.dumps((NOTED, sender, number, part, count, piece))


class Parts:
    """Puts notes together again. A sender's parts come in order; what misses one is given up."""

    def __init__(self) -> None:
        self._begun: dict[int, tuple[int, list[bytes]]] = {}

    def take(self, item: tuple[Any, ...]) -> tuple[Any, ...] | None:
        _, sender, number, part, count, piece = item
        begun, pieces = self._begun.pop(sender, (number, []))
        if begun != number:
            pieces = []
        if part != len(pieces):
            return None
        pieces.append(piece)
        if len(pieces) < count:
            self._begun[sender] = number, pieces
            return None
        note: tuple[Any, ...] = marshal.loads(b"".join(pieces))
        return note


#: Bytes asked of a socket at once. From 128 KB on the C library maps fresh memory for each call and unmaps it
#: again: five times the CPU (14 µs) of a small read.
READ = 1 << 16


class Inbox:
    """Bytes in, whole items out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= HEADER.size:
            (length,) = HEADER.unpack_from(buffer, start)
            end = start + HEADER.size + length
            if len(buffer) < end:
                break
            with memoryview(buffer)[start + HEADER.size : end] as whole:
                items = marshal.loads(whole)
            start = end
            yield from items
        del buffer[:start]


def plain(value: Any) -> Any:
    """The value in types that marshal knows; what it cannot say it names."""
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    if isinstance(value, (list, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return {"__datetime__": value.isoformat()}
    if isinstance(value, Decimal):
        return {"__decimal__": str(value)}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    return repr(value)
