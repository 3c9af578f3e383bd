"""Which schema the registry has, asked without Alembic: the recorder asks too, and must stay small."""

from __future__ import annotations

from crisper.errors import SchemaMissing, SchemaOutdated, SchemaTooNew
from crisper.store.sql import SqlStore

TABLE = "crisper_alembic_version"

#: The revision that this Crisper reads and writes: the newest file in `migrations/versions`.
HEAD_REVISION = "0010"

#: The oldest revision whose Crisper may work on the registry, as its newest one has written it down.
OLDEST = "SELECT r.value FROM crisper_registry r WHERE r.key = 'oldest'"


def check_light(store: SqlStore) -> None:
    """Return if the registry has the schema that this Crisper needs.

    Raises `SchemaMissing`, `SchemaOutdated` or `SchemaTooNew`, each saying what to run,
    and `RegistryUnreachable`.
    """
    with store.db.write():
        found = store.db.rows(f"SELECT version_num FROM {TABLE}") if store.db.has_table(TABLE) else []
        oldest = store.db.rows(OLDEST) if found else []
    compare(*(str(rows[0][0]) if rows else None for rows in (found, oldest)), where=store.db.where)


def compare(found: str | None, oldest: str | None, *, where: str) -> None:
    """Revisions are numbers, counted up; `where` is the registry's URL without its password.

    A newer Crisper has upgraded the registry while older workers go on (a rolling upgrade): they may,
    unless it says that they are too old.
    """
    run = f"CRISPER_REGISTRY_URL='{where}' crisper migrate"
    if "***" in where:  # what it is shown without, it cannot be run without
        run = "crisper -A proj migrate (proj: the app that the workers run)"
    if found is None:
        raise SchemaMissing(f"{where} holds no Crisper registry yet. Create it once, with: {run}")
    if found < HEAD_REVISION:
        raise SchemaOutdated(
            f"the registry at {where} has schema {found}, this Crisper needs {HEAD_REVISION}."
            f" Upgrade it, with: {run}"
        )
    if found > HEAD_REVISION and (oldest or found) > HEAD_REVISION:
        raise SchemaTooNew(
            f"the registry at {where} has schema {found}, this Crisper knows {HEAD_REVISION},"
            " and may not write to it."
            " Install a newer Crisper here, with: pip install --upgrade celery-crisper"
        )
