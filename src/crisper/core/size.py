"""Sizes of memory, in words. Pure."""

from __future__ import annotations

_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def size(count: int) -> str:
    """`2.1 GiB`, `412 MiB`, `900 bytes`."""
    for unit, name in _UNITS:
        if count >= unit:
            number = count / unit
            return f"{number:.1f} {name}" if number < 10 else f"{number:.0f} {name}"
    return f"{count} bytes"


def for_memory(memory: int | None, limit: int | None) -> str:
    """How the kernel ended a process that took this much of so much, in bytes, as far as both are known."""
    taken = size(memory) if memory else ""
    of = f"of {size(limit)}" if limit else ""
    told = " ".join(filter(None, (taken, of)))
    return f"killed by the kernel for memory ({told})" if told else "killed by the kernel for memory"
