"""Crisper keeps Celery from going stale: every attempt on record, a killed worker's tasks back.

    import crisper
    crisper.install(app)

Importing this module costs nothing: Celery, SQLAlchemy and the rest are
imported where they are used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it: `typing` takes longer to import than a probe may

__version__ = "0.1.0"
__all__ = ["__version__", "current_attempt", "errors", "install"]

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from celery import Celery

    from crisper import errors
    from crisper.celery.attempt import CurrentAttempt


def install(app: Celery) -> None:
    """Put every attempt of this app's tasks on record, and bring back those that are lost.

    Call it once where the app is made, before or after its configuration and
    its tasks; calling it again changes nothing. Settings are read when a worker
    starts. Raises nothing: a worker with settings that make no sense refuses to
    start and says what to set.
    """
    from crisper.celery.install import install as put_in

    put_in(app)


def current_attempt() -> CurrentAttempt:
    """The attempt that this code runs in; false, and silent, without a worker, so tests need no change.

    Its `task_id` and `number` (from 1) name it in `crisper show`; `progress(done, total, note)` says how far
    it is.
    """
    return (_current or _find_current())()


_current: Callable[[], CurrentAttempt] | None = None


def _find_current() -> Callable[[], CurrentAttempt]:
    """Looked up once: it may be asked for every row of a loop."""
    global _current
    from crisper.celery.attempt import current

    _current = current
    return current


def __getattr__(name: str) -> Any:
    if name == "errors":
        import importlib

        return importlib.import_module("crisper.errors")
    raise AttributeError(f"module 'crisper' has no attribute {name!r}")
