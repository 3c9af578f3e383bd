"""The journal: the file on the worker's disk that stands in while the registry cannot be reached.

Append-only. A frame is a mark, the length and the checksum of what follows, and
a line. `append` returns once it is on the disk, so what it took survives the
process, the host and a torn last write: the end of the file is the last frame that
checks out. Damage in the middle costs what it hit and nothing behind it.

Room for outcomes is reserved ahead: where the disk is full, no new task may
begin, and every task that has begun can still say how it ended.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from crisper.core.model import ChildLost, Claim, Finish, Published
from crisper.engine.lines import Line, Told, from_bytes, is_outcome, starts_with, to_bytes
from crisper.errors import JournalFull

MARK = b"\xc5\x15J\x01"
_FRAME = struct.Struct("<4sII")
#: Read at a time while looking for frames.
_CHUNK = 1 << 20
#: No frame is larger: a message of the largest size that settings allow, and its line.
_FRAME_MOST = 600 * 2**20
#: Kept free for outcomes; the file grows by so much at a time. One outcome takes 250 bytes.
RESERVE = 1 << 20
#: And for the outcome of each claim that the journal took.
RESERVE_EACH = 512


class File(Protocol):
    """A file on a disk that may be full, slow, torn or taken away. Raises `OSError`."""

    def size(self) -> int: ...

    def read(self, at: int, count: int) -> bytes: ...

    def write(self, at: int, data: bytes) -> None:
        """All of it, or an error; it is safe after `sync`."""

    def sync(self) -> None: ...

    def reserve(self, size: int) -> None:
        """Make sure that the file can be written up to there; it may be that long from now on."""

    def truncate(self, size: int) -> None: ...

    def is_lost(self) -> bool:
        """Whether somebody removed it from its folder: nobody would ever find what is in it."""

    def restore(self) -> None:
        """Put what is in it back into its folder."""

    def remove(self) -> None: ...

    def close(self) -> None: ...


class Found(NamedTuple):
    """A line, and where the next one begins."""

    line: Line
    next: int


class Journal:
    """Owned by one thread of one process; the file is locked by whoever opened it."""

    def __init__(self, file: File, *, most_bytes: int, check: bool = True) -> None:
        self._file, self._most = file, most_bytes
        self._damaged: set[int] = set()
        self._open_claims = 0
        self._end = self._find_end() if check else 0
        self._room = file.size()

    @property
    def end(self) -> int:
        """Where the last line ends, in bytes."""
        return self._end

    def append(self, lines: Sequence[Line], *, durable: bool = True) -> None:
        """Write the lines; if `durable`, they are on the disk when this returns.

        Raises `JournalFull` if the disk or the limit allows no more, and `OSError` for any other trouble;
        the journal is then as it was.
        """
        if durable and self._file.is_lost():
            self._file.restore()
        data = b"".join(map(_frame, lines))
        grows = any(isinstance(line, Told) and isinstance(line.record, Claim | Published) for line in lines)
        open_claims = max(0, self._open_claims + sum(map(_opens, lines)))
        if durable:
            self._make_room(len(data), RESERVE + RESERVE_EACH * open_claims if grows else 0)
        try:
            self._file.write(self._end, data)
            if durable:
                self._file.sync()
        except OSError:
            self._cut()
            raise
        self._end += len(data)
        self._open_claims = open_claims

    def _make_room(self, count: int, spare: int) -> None:
        """Outcomes may use up what claims must leave."""
        wanted = self._end + count + spare
        if wanted > self._most:
            raise JournalFull(f"the journal has reached its limit of {self._most} bytes")
        if wanted <= self._room:
            return
        try:
            self._file.reserve(wanted + (RESERVE if spare else 0))
        except OSError as exc:
            self._room = self._file.size()
            raise JournalFull(f"there is no room for the journal: {exc}") from exc
        self._room = self._file.size()

    def _cut(self) -> None:
        """What was written by halves must not be taken for a line when shorter ones lie over it."""
        try:
            self._file.truncate(self._end)
        except OSError:
            return  # it stays behind the end; whatever checks out of it is written again anyway
        self._room = self._file.size()

    @property
    def damaged(self) -> int:
        """Places where what had been written could not be read back."""
        return len(self._damaged)

    def lines(self, at: int = 0, *, of: Callable[[bytes], bool] = bool) -> Iterator[Found]:
        """Lines from there to the end, or those `of` a kind. A damaged place is counted and stepped over."""
        while at < self._end:
            found = self._frame_at(at, self._end)
            if found is None:
                self._damaged.add(at)
                at = self._next_frame(at + 1, self._end)
                continue
            began, (data, at) = at, found
            if not of(data):
                continue
            try:
                line = from_bytes(data)
            except ValueError:
                self._damaged.add(began)
                continue
            yield Found(line, at)

    def clear(self) -> None:
        """All of it is in the registry."""
        self._file.truncate(0)
        self._end = self._open_claims = self._room = 0
        self._damaged = set()

    def remove(self) -> None:
        self._file.remove()
        self._file.close()

    def close(self) -> None:
        self._file.close()

    # -- reading back ---------------------------------------------------------

    def _find_end(self) -> int:
        """Behind the last frame that checks out; what follows was torn, or is room that was reserved."""
        size, at, end = self._file.size(), 0, 0
        while at < size:
            found = self._frame_at(at, size)
            if found is None:
                at = self._next_frame(at + 1, size)
                continue
            data, end = found
            at = end
            self._open_claims = max(0, self._open_claims + starts_with(data, "claim") - is_outcome(data))
        return end

    def _frame_at(self, at: int, limit: int) -> tuple[bytes, int] | None:
        head = self._file.read(at, _FRAME.size)
        if len(head) < _FRAME.size:
            return None
        mark, length, checksum = _FRAME.unpack(head)
        end = at + _FRAME.size + length
        if mark != MARK or end > limit or length > _FRAME_MOST:
            return None
        data = self._file.read(at + _FRAME.size, length)
        if len(data) != length or zlib.crc32(data) != checksum:
            return None
        return data, end

    def _next_frame(self, at: int, limit: int) -> int:
        """Where the next mark is that may begin a frame."""
        while at < limit:
            chunk = self._file.read(at, min(_CHUNK, limit - at))
            if not chunk:
                return limit
            place = chunk.find(MARK)
            if place >= 0:
                return at + place
            at += max(1, len(chunk) - len(MARK) + 1)
        return limit


def _opens(line: Line) -> int:
    """How many more outcomes are to come once this line is written."""
    record = line.record if isinstance(line, Told) else None
    return isinstance(record, Claim) - isinstance(record, Finish | ChildLost)


def _frame(line: Line) -> bytes:
    data = to_bytes(line)
    return _FRAME.pack(MARK, len(data), zlib.crc32(data)) + data
