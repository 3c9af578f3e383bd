"""A registry as a Crisper of another age has left it, and such a Crisper."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

from crisper.store.open import open_store
from crisper.store.version import HEAD_REVISION, OLDEST, TABLE

NEWER_VERSION, NEWER_REVISION = "99.0.0", "9999"
_ADDS = f'''"""A column that older workers do not know."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "{NEWER_REVISION}", "{HEAD_REVISION}"


def upgrade() -> None:
    op.add_column("crisper_attempt", sa.Column("mood", sa.String(16)))
'''


def set_revision(url: str, revision: str, oldest: str | None = None) -> None:
    """`oldest`: whose Crisper may still work on it; that revision's own, unless it is said."""
    with closing(open_store(url)) as store, store.db.write():
        store.db.run(f"UPDATE {TABLE} SET version_num = ?", revision)
        [(was,)] = store.db.rows(OLDEST)
        store.db.run("UPDATE crisper_registry SET value = ? WHERE value = ?", oldest or revision, was)


def newer_crisper(folder: Path) -> Path:
    """This Crisper as a later release, with one more migration: the folder to put first on PYTHONPATH."""
    import crisper

    source = Path(crisper.__file__).parent
    shutil.copytree(source, folder / "crisper", ignore=shutil.ignore_patterns("__pycache__"))
    _replace(folder / "crisper/__init__.py", f'"{crisper.__version__}"', f'"{NEWER_VERSION}"')
    store = folder / "crisper/store"
    _replace(
        store / "version.py", f'HEAD_REVISION = "{HEAD_REVISION}"', f'HEAD_REVISION = "{NEWER_REVISION}"'
    )
    (store / f"migrations/versions/v{NEWER_REVISION}_mood.py").write_text(_ADDS)
    return folder


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, path
    path.write_text(text.replace(old, new))
