"""`crisper export`: what it writes, in which form, and what it leaves as it was."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from crisper.engine import export
from crisper.store.open import open_store
from tests.faces.conftest import Run
from tests.faces.scene import Scene


def lines(run: Run, url: str, *arguments: str) -> list[dict[str, Any]]:
    result = run(url, "export", *arguments)
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def counted(scene: Scene, table: str) -> int:
    with closing(open_store(scene.url)) as store, store.db.write():
        [(count,)] = store.db.rows(f"SELECT count(*) FROM {table}")
    return int(count)


@pytest.mark.parametrize(
    ("what", "table"),
    [
        ("attempts", "crisper_attempt"),
        ("recoveries", "crisper_recovery"),
        ("events", "crisper_event"),
        ("workers", "crisper_incarnation"),
    ],
)
def test_every_row_is_exported_once_over_as_many_pages_as_it_takes(
    run: Run, read_scene: Scene, monkeypatch: pytest.MonkeyPatch, what: str, table: str
) -> None:
    monkeypatch.setattr(export, "PAGE", 3)
    rows = lines(run, read_scene.url, what)
    assert len(rows) == counted(read_scene, table)
    assert len({json.dumps(row, sort_keys=True) for row in rows}) == len(rows)
    assert {tuple(row) for row in rows} == {tuple(export.EXPORTABLE[what].kinds)}


def test_an_attempt_is_exported_with_its_worker_and_without_its_message(run: Run, read_scene: Scene) -> None:
    by_id = {row["task_id"]: row for row in lines(run, read_scene.url, "attempts")}
    row = by_id[read_scene.ids["quarantined"]]
    assert row["worker"] == "celery@two"
    assert row["args_preview"] == [42, "x"]
    assert row["received_at"].endswith("Z")
    assert row["acks_late"] in (True, False)
    assert not {"body", "envelope"} & set(row)


def test_parquet_has_the_same_rows_with_types(
    run: Run, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crisper.faces.cli.export.ROW_GROUP", 5)
    monkeypatch.setattr(export, "PAGE", 2)
    file = tmp_path / "attempts.parquet"
    result = run(scene.url, "export", "attempts", "--to", str(file))
    assert result.exit_code == 0, result.stderr
    table = parquet.read_table(file)
    plain = lines(run, scene.url, "attempts")
    assert f"{len(plain)} rows of attempts in {file}" in result.stderr
    assert table.num_rows == len(plain)
    assert str(table.schema.field("received_at").type) == "timestamp[ms, tz=UTC]"
    assert table.column("task_id").to_pylist() == [row["task_id"] for row in plain]
    first = table.column("received_at").to_pylist()[0]
    assert first.isoformat(timespec="milliseconds") == plain[0]["received_at"].replace("Z", "+00:00")
    assert parquet.ParquetFile(file).num_row_groups > 1


def test_only_what_happened_in_the_time_that_was_asked_for(run: Run, scene: Scene) -> None:
    with closing(open_store(scene.url)) as store, store.db.write():
        store.db.run(
            "UPDATE crisper_attempt SET received_at = received_at - ? WHERE task_id = ?",
            *(3 * 86_400_000, scene.ids["succeeded"]),
        )
    old = {row["task_id"] for row in lines(run, scene.url, "attempts", "--until", "2d")}
    new = {row["task_id"] for row in lines(run, scene.url, "attempts", "--since", "2d")}
    assert old == {scene.ids["succeeded"]}
    assert scene.ids["succeeded"] not in new
    assert len(new) > 1


def test_a_file_takes_its_name_when_it_is_whole_and_is_for_nobody_else(
    run: Run, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text("before")

    def breaks(*arguments: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("crisper.faces.cli.export._jsonl", breaks)
        result = run(scene.url, "export", "events", "--to", str(file))
    assert result.exit_code == 1
    assert "No space left" in result.stderr
    assert file.read_text() == "before"
    assert run(scene.url, "export", "events", "--to", str(file)).exit_code == 0
    assert len(file.read_text().splitlines()) == counted(scene, "crisper_event")
    assert file.stat().st_mode & 0o077 == 0
    assert {one.name for one in tmp_path.iterdir() if one.name.startswith(".")} == set()


def test_parquet_wants_a_file(run: Run, scene: Scene) -> None:
    result = run(scene.url, "export", "attempts", "--format", "parquet")
    assert result.exit_code == 2
    assert "--to" in result.stderr


def test_an_age_that_is_none_is_refused(run: Run, scene: Scene) -> None:
    result = run(scene.url, "export", "attempts", "--since", "yesterday")
    assert result.exit_code == 2
    assert "1d12h" in result.stderr


def test_a_folder_that_is_not_there_is_said(run: Run, scene: Scene, tmp_path: Path) -> None:
    result = run(scene.url, "export", "events", "--to", str(tmp_path / "nowhere" / "events.jsonl"))
    assert result.exit_code == 1
    assert "Choose another --to" in result.stderr
