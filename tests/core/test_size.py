"""Sizes of memory, as people read them."""

from __future__ import annotations

import pytest

from crisper.core.size import for_memory, size

GIB = 2**30


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "0 bytes"), (900, "900 bytes"), (2048, "2.0 KiB"), (412 * 2**20, "412 MiB"), (2.1 * GIB, "2.1 GiB")],
)
def test_a_size_has_two_or_three_digits_and_its_unit(count: int, told: str) -> None:
    assert size(int(count)) == told


@pytest.mark.parametrize(
    ("memory", "limit", "told"),
    [
        (int(2.1 * GIB), 2 * GIB, "killed by the kernel for memory (2.1 GiB of 2.0 GiB)"),
        (None, 2 * GIB, "killed by the kernel for memory (of 2.0 GiB)"),
        (2 * GIB, None, "killed by the kernel for memory (2.0 GiB)"),
        (None, None, "killed by the kernel for memory"),
    ],
)
def test_a_kill_for_memory_says_how_much_of_how_much_as_far_as_it_is_known(
    memory: int | None, limit: int | None, told: str
) -> None:
    assert for_memory(memory, limit) == told
