"""The engine acts on real stores, those of the store's own contract."""

from __future__ import annotations

from tests.store.conftest import (
    mariadb_registry,
    memory_registry,
    migrated_mariadb,
    migrated_postgres,
    postgres_registry,
    registry,
    shared,
    sqlite_registry,
    sqlite_template,
)

__all__ = [
    "mariadb_registry",
    "memory_registry",
    "migrated_mariadb",
    "migrated_postgres",
    "postgres_registry",
    "registry",
    "shared",
    "sqlite_registry",
    "sqlite_template",
]
