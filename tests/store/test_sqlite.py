"""What SQLite alone needs: a library that knows what is asked of it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from crisper.errors import RegistryUnusable
from crisper.store import migrate
from crisper.store.open import open_store

TOO_OLD = r"has SQLite 3\.34, Crisper needs 3\.35 or newer.*crisper_registry_url"


def test_a_library_that_is_too_old_is_told_by_the_first_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate.upgrade(f"sqlite:///{tmp_path}/registry.db")
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with (
        closing(open_store(f"sqlite:///{tmp_path}/registry.db")) as store,
        pytest.raises(RegistryUnusable, match=TOO_OLD),
    ):
        store.identity()


def test_the_oldest_that_will_do_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 35, 0))
    migrate.upgrade(f"sqlite:///{tmp_path}/registry.db")
    with closing(open_store(f"sqlite:///{tmp_path}/registry.db")) as store:
        assert store.identity()


def test_with_a_library_that_is_too_old_no_file_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(RegistryUnusable, match=TOO_OLD):
        migrate.ensure(f"sqlite:///{tmp_path}/state/registry.db")
    assert not (tmp_path / "state").exists()
