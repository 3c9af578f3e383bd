"""Whether a pool process may be ended for one attempt. Pure.

Between the order and the signal its body may end, and its process begin the next one. So the process is
frozen first, then asked what it runs, and only then ended, or let go on: a frozen process begins nothing.
"""

from __future__ import annotations

from typing import NamedTuple


class Doing(NamedTuple):
    """What a pool process wrote down of itself when it began the body, and cleared when that ended."""

    pid: int
    seq: int  # of the claim of the attempt that it runs; 0: none


def may_end(seq: int, pid: int, doing: Doing | None, *, frozen: bool) -> bool:
    """`seq` and `pid`: of the attempt that is to end, and of the process that is said to run it."""
    return frozen and seq > 0 and doing == Doing(pid, seq)
