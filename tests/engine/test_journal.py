"""The journal's file, on real disks that are torn, flipped, full, read-only, taken away and shared."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crisper.core.model import ChildLost, Claim, Finish, Message, Note, Published, Start
from crisper.core.states import OnLost, State
from crisper.engine.folder import DiskFile, open_file, own_file
from crisper.engine.journal import MARK, RESERVE, Journal
from crisper.engine.lines import Ended, Life, Line, Told, from_bytes, to_bytes
from crisper.errors import JournalFull, JournalUnusable
from tests.left_out import needs
from tests.servers import Unavailable

MOST = 64 * 2**20
LIFE = Life({"id": "me", "boot_id": "boot"}, "registry", 30_000)


def claim(seq: int, body: bytes = b'[[1], {}, {"chord": null}]') -> Claim:
    message = Message(body, '{"headers": {}}', len(body))
    return Claim(
        seq, f"task-{seq}", f"message-{seq}", True, "app.pack", "celery", 0, False, True, True, f"tag-{seq}",
        OnLost.RESEND, 3, message, "[1]", "{}",
    )  # fmt: skip


def finish(seq: int) -> Finish:
    return Finish(1000 + seq, seq, f"task-{seq}", State.SUCCEEDED, None, 12)


def told(record: Claim | Finish) -> Told:
    return Told(5_000, 1_700_000_000_000, record)


def journal_at(path: Path, most: int = MOST) -> Journal:
    file = open_file(path)
    assert file is not None
    return Journal(file, most_bytes=most)


def until_full(journal: Journal, why: str, body: bytes) -> int:
    """So many claims it took."""
    for seq in range(100_000):
        try:
            journal.append([told(claim(seq, body))])
        except JournalFull as exc:
            if why in str(exc):
                return seq
            raise
    raise AssertionError("it never was full")


def said(journal: Journal) -> list[Line]:
    return [found.line for found in journal.lines()]


def written(path: Path, count: int) -> list[Told]:
    """A journal with so many claims, closed."""
    lines = [told(claim(seq)) for seq in range(count)]
    journal = journal_at(path)
    for line in lines:
        journal.append([line])
    journal.close()
    return lines


# -- what is written is read back ---------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        claim(1),
        claim(2, b""),
        claim(3, bytes(range(256)) * 50),
        claim(4)._replace(message=Message(None, "{}", 9, "too large"), provisional="x", copy=True),
        claim(5)._replace(name="\ud800 naïve \u2028", args_preview='{"a": "\\u0000"}'),
        Start(1, "task", 12, 99),
        finish(1),
        Finish(2, 1, "task", State.FAILED, "reason: \udcff", None, 4, 5),
        ChildLost(3, 1, "task", True, {"how": "signal 9", "exitcode": -9}),
        Note(4, "adopted", None, {"number": 2}),
        Published("m", "t", "s", "n", "q", 0, 3, Message(b"body", "{}", 4), "[]", "{}", 5, 6),
    ],
    ids=lambda record: type(record).__name__,
)
def test_every_record_is_read_back_as_it_was(record: Claim | Finish) -> None:
    assert from_bytes(to_bytes(told(record))) == told(record)


def test_what_json_does_not_know_is_written_as_people_would_see_it() -> None:
    line = Told(1, 2, Note(4, "adopted", None, {"number": object}))
    read = from_bytes(to_bytes(line))
    assert isinstance(read, Told)
    assert isinstance(read.record, Note)
    assert read.record.data == {"number": repr(object)}


def test_a_field_that_this_version_does_not_know_is_left_out() -> None:
    data = to_bytes(told(finish(1))).replace(b'"claim_seq"', b'"from_the_future":1,"claim_seq"')
    assert from_bytes(data) == told(finish(1))


def test_lines_are_read_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    journal = journal_at(tmp_path / "a.journal")
    lines: list[Line] = [LIFE, told(claim(1)), told(finish(1)), Ended("shutdown")]
    journal.append(lines[:2])
    journal.append(lines[2:])
    assert said(journal) == lines
    journal.close()
    assert said(journal_at(tmp_path / "a.journal")) == lines


def test_a_line_is_on_the_disk_when_append_returns(tmp_path: Path) -> None:
    """Its process is killed without a chance to write anything more."""
    code = (
        "import os, sys; from pathlib import Path; from tests.engine.test_journal import *\n"
        f"journal_at(Path({str(tmp_path / 'a.journal')!r})).append([told(claim(1))]); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert said(journal_at(tmp_path / "a.journal")) == [told(claim(1))]


def test_a_cleared_journal_holds_nothing_and_takes_lines_again(tmp_path: Path) -> None:
    journal = journal_at(tmp_path / "a.journal")
    journal.append([told(claim(1))])
    journal.clear()
    assert (said(journal), journal.end) == ([], 0)
    journal.append([told(claim(2))])
    assert said(journal) == [told(claim(2))]


# -- torn, flipped ------------------------------------------------------------------


def test_a_torn_last_line_is_no_line_and_the_next_one_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    lines = written(path, 2)
    whole = journal_at(path)
    end = whole.end
    whole.close()
    for cut in range(1, end // 2, 7):
        copy = tmp_path / f"{cut}.journal"
        copy.write_bytes(path.read_bytes()[: end - cut])
        journal = journal_at(copy)
        assert said(journal) == lines[:1]
        journal.append([told(finish(9))])
        assert said(journal) == [*lines[:1], told(finish(9))]
        assert journal.damaged == 0
        journal.close()


def test_a_flipped_bit_costs_the_line_that_it_hit_and_none_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    lines = written(path, 5)
    first = journal_at(path)
    starts = [0, *(found.next for found in first.lines())]
    first.close()
    whole = bytearray(path.read_bytes())
    for at in range(starts[2], starts[3]):
        flipped = bytearray(whole)
        flipped[at] ^= 0x10
        copy = tmp_path / "flipped.journal"
        copy.write_bytes(flipped)
        journal = journal_at(copy)
        assert said(journal) == [*lines[:2], *lines[3:]], at
        assert journal.damaged == 1
        journal.close()


def test_a_body_that_looks_like_a_frame_is_not_taken_for_one(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    journal = journal_at(path)
    lines = [told(claim(1, MARK * 100)), told(claim(2))]
    journal.append(lines)
    journal.close()
    damaged = bytearray(path.read_bytes())
    damaged[20] ^= 1  # the first line is not readable, and its body is full of marks
    path.write_bytes(damaged)
    assert said(journal_at(path)) == lines[1:]


# -- full, read-only, taken away ----------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    with needs("a small disk"):
        if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            raise Unavailable("to mount one takes root, and leave to do so")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_refuses_claims_and_still_takes_the_outcome_of_every_claim_that_it_took(
    small_disk: Path,
) -> None:
    journal = journal_at(small_disk / "a.journal")
    took = until_full(journal, "no room", b"x" * 20_000)
    assert took > 50
    (small_disk / "of somebody else").write_bytes(b"x" * os.statvfs(small_disk).f_bavail * 4096)
    for seq in range(took):
        journal.append([told(finish(seq))])
    assert len(said(journal)) == 2 * took


def test_what_a_full_disk_took_by_halves_is_no_line(small_disk: Path) -> None:
    path = small_disk / "a.journal"
    journal = journal_at(path)
    journal.append([told(claim(1))])
    journal._make_room = lambda count, spare: None  # type: ignore[method-assign]  # nothing was reserved
    with pytest.raises(OSError, match="No space"):
        journal.append([told(claim(2)), told(claim(3, b"x" * 5 * 2**20))])
    assert said(journal) == [told(claim(1))]
    journal.close()
    assert said(journal_at(path)) == [told(claim(1))]


def test_the_limit_leaves_room_for_outcomes(tmp_path: Path) -> None:
    journal = journal_at(tmp_path / "a.journal", most=RESERVE + 4_000)
    took = until_full(journal, "its limit", b"x")
    assert took
    for seq in range(took):
        journal.append([told(finish(seq))])


def test_a_folder_that_cannot_be_written_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(JournalUnusable, match="Set crisper_journal_dir to a folder"):
        open_file(tmp_path / "folder" / "a.journal")


@pytest.mark.parametrize("how", ["removed", "replaced", "with its folder"])
def test_a_journal_that_was_taken_away_is_put_back_with_all_that_was_in_it(tmp_path: Path, how: str) -> None:
    path = tmp_path / "folder" / "a.journal"
    journal = journal_at(path)
    journal.append([told(claim(1))])
    path.unlink()
    if how == "replaced":
        path.write_text("something else")
    elif how == "with its folder":
        path.parent.rmdir()
    journal.append([told(finish(1))])
    journal.close()
    assert said(journal_at(path)) == [told(claim(1)), told(finish(1))]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("not a journal")
    (tmp_path / "a.journal").symlink_to(target)
    with pytest.raises(JournalUnusable):
        open_file(tmp_path / "a.journal")
    assert target.read_text() == "not a journal"


# -- two processes ------------------------------------------------------------------


def test_a_journal_is_open_in_one_process_at_a_time(tmp_path: Path) -> None:
    first = own_file(tmp_path, "mine")
    assert open_file(tmp_path / "mine.journal") is None
    second = own_file(tmp_path, "mine")
    assert (first.path.name, second.path.name) == ("mine.journal", "mine-1.journal")
    first.close()
    third = open_file(tmp_path / "mine.journal")
    assert third is not None
    third.close()
    second.close()


def test_whoever_waited_for_a_journal_that_was_removed_meanwhile_does_not_get_it(tmp_path: Path) -> None:
    """Many take and remove one name at once: what each wrote into a file that it has, nobody else removes."""
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        lost = pool.map(_take_and_remove, [tmp_path] * 4)
    assert lost == [0] * 4


def _take_and_remove(folder: Path) -> int:
    lost = 0
    for _ in range(200):
        file = open_file(folder / "one.journal")
        if file is None:
            continue
        journal = Journal(file, most_bytes=MOST)
        journal.append([told(claim(1))])
        lost += not Path(folder / "one.journal").exists()
        journal.remove()
    return lost


def test_a_disk_file_writes_all_of_it(tmp_path: Path) -> None:
    file = open_file(tmp_path / "a.journal")
    assert isinstance(file, DiskFile)
    file.write(10, b"x" * 3_000_000)
    assert (file.size(), file.read(10, 3)) == (3_000_010, b"xxx")
    file.reserve(4_000_000)
    assert file.size() == 4_000_000
    file.close()
