"""The store of the databases."""

from crisper.store.sql.store import SqlStore

__all__ = ["SqlStore"]
