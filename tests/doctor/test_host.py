"""What is read from this host, without writing to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crisper.engine.doctor import host
from crisper.engine.doctor.facts import Journal
from crisper.settings import Settings


def journal_in(folder: Path) -> Journal:
    found = host.ask(Settings(registry_url="sqlite:////r.db", journal_dir=str(folder)), None).journal
    assert found is not None
    return found


def test_a_folder_that_is_not_there_is_judged_by_where_it_would_be_made(tmp_path: Path) -> None:
    found = journal_in(tmp_path / "deep" / "journal")
    assert found.writable
    assert found.folder == str(tmp_path / "deep" / "journal")
    assert found.free == pytest.approx(os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize, rel=0.2)
    assert not (tmp_path / "deep").exists()


def test_a_file_in_its_place_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "journal").touch()
    assert not journal_in(tmp_path / "journal").writable


def test_the_deepest_mount_says_what_the_folder_is_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    place = str(tmp_path.resolve())
    mounts.write_text(
        "20 1 8:1 / / rw - overlay overlay rw\n"
        f"21 20 8:2 / {place} rw,relatime shared:1 - ext4 /dev/vda rw\n"
        f"22 21 8:3 / {place}/with\\040space rw - tmpfs tmpfs rw\n"
        f"23 20 8:4 / {place}x rw - xfs /dev/vdb rw\n"
    )
    monkeypatch.setattr(host, "MOUNTS", mounts)
    (tmp_path / "with space").mkdir()
    assert journal_in(tmp_path).filesystem == "ext4"
    assert journal_in(tmp_path / "with space" / "journal").filesystem == "tmpfs"
    assert journal_in(Path("/")).filesystem == "overlay"
    monkeypatch.setattr(host, "MOUNTS", tmp_path / "none")
    assert journal_in(tmp_path).filesystem == ""
