"""Connections to a database's server that are kept from one question to the next, for a while.

To connect anew takes longer than most questions do. But one that was kept may have died meanwhile, or its
server may have been replaced by another: it is asked for a sign of life, which it must give at once, and one
that was idle for long is not used again.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, QueuePool, event
from sqlalchemy.exc import DisconnectionError, InvalidatePoolError

from crisper.engine.deadline import hang_up_after

#: So many are kept, the latest used; more at a time are opened for their question alone.
MOST = 2
IDLE_SECONDS, OLDEST_SECONDS = 30.0, 300
#: For the sign of life.
SIGN_SECONDS = 1.0

#: For `create_engine`.
POOL: dict[str, Any] = {
    "poolclass": QueuePool,
    "pool_size": MOST,
    "max_overflow": -1,
    "pool_use_lifo": True,
    "pool_recycle": OLDEST_SECONDS,
}


def look_before_use(engine: Engine) -> Engine:
    """An engine with `POOL` that gives out no connection which has died or was idle for too long."""
    dialect: Any = engine.dialect

    def look(driver: Any, record: Any, _proxy: Any) -> None:
        idle_since = record.info.pop("idle_since", None)
        if idle_since is None:  # it was opened just now
            return
        if time.monotonic() - idle_since > IDLE_SECONDS:
            raise DisconnectionError("it was idle for too long")
        try:
            with deadline(driver, SIGN_SECONDS):
                dialect.do_ping(driver)
        except dialect.loaded_dbapi.Error as exc:
            raise InvalidatePoolError("it has died, and those that are as old have too") from exc

    def leave(_driver: Any, record: Any) -> None:
        record.info["idle_since"] = time.monotonic()

    event.listen(engine, "checkout", look)
    event.listen(engine, "checkin", leave)
    return engine


@contextmanager
def deadline(driver: Any, seconds: float) -> Iterator[None]:
    """A server's own timeout does not fire while it is stopped: shut the socket under the call."""
    if not hasattr(driver, "fileno"):
        yield
        return

    def shut() -> None:
        with socket.socket(fileno=os.dup(driver.fileno())) as peer:
            peer.shutdown(socket.SHUT_RDWR)

    with hang_up_after(seconds, shut):
        yield
