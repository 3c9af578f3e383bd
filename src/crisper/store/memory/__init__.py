"""A registry that is nothing but dictionaries."""

from crisper.store.memory.store import MemoryStore
from crisper.store.memory.tables import Event

__all__ = ["Event", "MemoryStore"]
