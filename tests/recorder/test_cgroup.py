"""A control group's memory as its files tell it, in both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from crisper.recorder.cgroup import own_cgroup

GIB = 2**30


def written(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


@pytest.fixture
def told(tmp_path: Path) -> Path:
    return tmp_path / "told"


def test_version_2_counts_kills_and_knows_the_tightest_limit_above_it(top: Path, told: Path) -> None:
    told.write_text("0::/pod/worker\n")
    events = "low 0\nhigh 0\nmax 41\noom 3\noom_kill 2\noom_group_kill 0\n"
    written(top, cgroup__controllers="memory")
    written(top / "pod", memory__max=f"{2 * GIB}\n")
    written(top / "pod/worker", memory__max="max\n", memory__events=events)
    group = own_cgroup(told, top)
    assert group is not None
    assert (group.kills(), group.limit()) == (2, 2 * GIB)
    written(top / "pod/worker", memory__max=f"{GIB}\n")
    assert group.limit() == GIB


def test_version_1_counts_kills_and_says_no_limit_by_a_huge_number(top: Path, told: Path) -> None:
    told.write_text("5:freezer:/\n4:memory:/docker/abc\n0::/\n")
    control = "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"
    written(top / "memory", memory__limit_in_bytes="9223372036854771712\n")
    written(top / "memory/docker/abc", memory__oom_control=control, memory__limit_in_bytes=f"{GIB}\n")
    group = own_cgroup(told, top)
    assert group is not None
    assert (group.kills(), group.limit()) == (7, GIB)
    written(top / "memory/docker/abc", memory__limit_in_bytes="9223372036854771712\n")
    assert group.limit() is None


@pytest.mark.parametrize("path", ["/docker/of-the-host", "/../../outside", "/"])
def test_in_a_container_what_is_mounted_is_the_group_itself(top: Path, told: Path, path: str) -> None:
    told.write_text(f"0::{path}\n")
    written(top, cgroup__controllers="memory", memory__events="oom_kill 1\n", memory__max=f"{GIB}\n")
    group = own_cgroup(told, top)
    assert group is not None
    assert (group.kills(), group.limit()) == (1, GIB)


@pytest.mark.parametrize("text", ["", "0::/x\n", "4:memory:/x\n"])
def test_where_there_are_no_groups_nothing_is_known(top: Path, told: Path, text: str) -> None:
    told.write_text(text)
    assert own_cgroup(told, top) is None
    assert own_cgroup(told.parent / "missing", top) is None


def test_what_cannot_be_read_is_not_known(top: Path, told: Path) -> None:
    told.write_text("0::/\n")
    written(top, cgroup__controllers="memory", memory__events="oom_kill many\n", memory__max="\n")
    group = own_cgroup(told, top)
    assert group is not None
    assert (group.kills(), group.limit()) == (None, None)
