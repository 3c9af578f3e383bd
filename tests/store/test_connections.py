"""A connection to a server that hangs, is cut, or is closed under its transaction."""

from __future__ import annotations

import threading

import pytest

from crisper.errors import RegistryUnreachable
from tests.store.acting import PULSE, SqlRegistry


def test_a_call_that_hangs_is_ended_from_another_thread(served: SqlRegistry) -> None:
    me, blocker = served.joins(), served.another()
    hung = served.another()
    asked = threading.Event()

    def renew() -> bool:
        asked.set()
        return bool(hung.renew(me.fence, PULSE))

    with blocker.db.write():
        blocker.db.run("UPDATE crisper_incarnation SET counter = counter + 1")
        failed: list[BaseException] = []

        def run() -> None:
            try:
                renew()
            except RegistryUnreachable as exc:
                failed.append(exc)

        hung.alive()  # its connection is open
        thread = threading.Thread(target=run)
        thread.start()
        asked.wait(10)
        while thread.is_alive():
            hung.abort()
            thread.join(0.02)
    assert len(failed) == 1
    assert hung.renew(me.fence, PULSE)


def test_a_connection_that_is_gone_is_replaced_at_the_next_verb(served: SqlRegistry) -> None:
    me = served.joins()
    mine, kill = (
        ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend(?, 5000)")
        if served.url.startswith("postgres")
        else ("SELECT CONNECTION_ID()", "KILL ?")
    )
    with served.store.db.write():
        [(id,)] = served.store.db.rows(mine)
    killer = served.another()
    with killer.db.write():
        killer.db.rows(kill, id)
    with pytest.raises(RegistryUnreachable):
        served.store.renew(me.fence, PULSE)
    assert served.store.renew(me.fence, PULSE)


def test_no_statement_leaves_its_transaction_for_another_connection(served: SqlRegistry) -> None:
    me, db = served.joins(), served.store.db

    def write_after_a_close() -> None:
        with db.write():
            db.close()
            db.run("UPDATE crisper_incarnation SET counter = 99")

    with pytest.raises(RegistryUnreachable):
        write_after_a_close()
    assert served.worker(me.id).counter == 0
