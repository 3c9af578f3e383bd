"""Whether frames of a thread or greenlet are in the body of one attempt."""

from __future__ import annotations

from collections.abc import Iterator
from types import FrameType

#: Celery's own frames between its tracing and the body of a task.
_AROUND = {("celery.app.trace", "__protected_call__"), ("celery.app.task", "__call__"),
           ("celery.app.autoretry", "run")}  # fmt: skip


def runs_the_body(frame: FrameType | None, seq: int) -> bool:
    """Whether these frames, from the innermost out, are in the body of this attempt: not before it, and not
    in what Celery does with its outcome."""
    inner: FrameType | None = None
    for one in _outwards(frame):
        if one.f_code.co_name == "trace_task" and _seq_of(one) == seq:
            return inner is not None and one.f_locals.get("state") is None and not _is_celerys(inner)
        inner = one
    return False


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _seq_of(trace: FrameType) -> int:
    request = trace.f_locals.get("request")
    known = request.get("crisper") if isinstance(request, dict) else None
    return int(known[0]) if known else 0


def _is_celerys(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    own = module == "celery" or module.startswith("celery.")
    return own and (module, frame.f_code.co_name) not in _AROUND
