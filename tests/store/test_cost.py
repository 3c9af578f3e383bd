"""I12: a sweep's work grows with the workers and with what they lost, not with what is over.

And what a record costs does not grow with what is open beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from crisper.core.states import State, VerdictKind
from crisper.core.verdict import Judgement, Verdict
from crisper.engine.sweeper import Sweeper
from tests.fleet import wait_for
from tests.store.acting import PULSE, SCOPE, SqlRegistry, start

LEASE = 20.0
#: Of what a sweep reads of the same workers and losses: the pages of an index that has grown.
TOLERANCE = 1.3


def history(registry: SqlRegistry, count: int) -> None:
    """So many attempts that have succeeded, and workers that came, lost two attempts each, and went."""
    past = registry.joins()
    for first in range(0, count, 250):
        claims = [past.wants(f"{past.id}-{first}-{n}", f"{past.id}-{first}-{n}") for n in range(250)]
        past.record(*claims)
        past.record(*(past.finish(claim) for claim in claims))
    for _ in range(count // 250):
        gone = registry.joins()
        for which in range(2):
            gone.runs(f"{gone.id}-{which}", f"{gone.id}-{which}")
        counter = registry.worker(gone.id).counter
        registry.store.declare_lost(gone.id, counter, by="test", evidence={"how": "silence"})
        while registry.store.close_lost(gone.id, by="test").more:
            pass


def a_sweep_of_three_losses(registry: SqlRegistry) -> Callable[[], None]:
    """Ten workers, and one of them dies with three attempts: heartbeats and sweeps until that is over."""
    alive = [registry.joins() for _ in range(10)]
    for actor in alive:
        for n in range(3):
            actor.runs(f"{actor.id}-{n}", f"{actor.id}-{n}")
    victim = alive.pop()

    def sweep() -> None:
        sweeper = Sweeper(registry.another(), "me", lease=LEASE)
        closed = 0
        for second in range(int(LEASE) + 2):
            for actor in alive:
                actor.store.renew(actor.fence, PULSE)
            closed += sweeper.tick(float(second)).closed
        assert closed == 3
        assert registry.states(f"{victim.id}-0") == [State.LOST]
        for actor in alive:
            actor.store.say_goodbye(actor.fence, reason="the end")
            actor.store.close_lost(actor.id, by="test")

    return sweep


def test_on_sqlite_it_takes_as_many_steps_after_a_long_history(sqlite_registry: SqlRegistry) -> None:
    few, many = _steps(sqlite_registry, 250), _steps(sqlite_registry, 4000)
    assert few > 1000
    assert many < TOLERANCE * few


def _steps(registry: SqlRegistry, count: int) -> int:
    """Of SQLite's machine, on every connection."""
    history(registry, count)
    sweep = a_sweep_of_three_losses(registry)
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    opened = registry.another
    registry.store.db._connect().set_progress_handler(step, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "another", lambda: _counted(opened(), step))
        sweep()
    registry.store.db._connect().set_progress_handler(None, 1)
    return steps


def _counted(store: object, step: Callable[[], int]) -> object:
    store.db._connect().set_progress_handler(step, 1)  # type: ignore[attr-defined]
    return store


def test_on_postgres_it_reads_as_many_rows_after_a_long_history(postgres_registry: SqlRegistry) -> None:
    with _by_index_where_there_is_one(postgres_registry):
        few, many = _rows_read(postgres_registry, 250), _rows_read(postgres_registry, 4000)
    assert few > 100
    assert many < TOLERANCE * few


def test_on_postgres_a_record_reads_its_own_row_however_many_are_open(postgres_registry: SqlRegistry) -> None:
    """In a session that has made its plans while the table was empty."""
    before = _stable(postgres_registry)
    worker = postgres_registry.joins()
    claims = [worker.wants(f"{worker.id}-{n}", f"{worker.id}-{n}") for n in range(500)]
    for claim in claims:
        worker.record(claim)
        worker.record(start(claim))
    for claim in claims[::2]:
        worker.record(worker.finish(claim))
    records = len(claims) * 2 + len(claims) // 2
    postgres_registry.close()
    after = wait_for("its reading is counted", lambda: (now := _stable(postgres_registry)) > before and now)
    assert after - before < 4 * records  # each reads the fence, and its own row


def test_on_postgres_a_loss_reads_its_own_rows_however_many_are_lost(postgres_registry: SqlRegistry) -> None:
    """From when it is closed until its task runs again, by plans that were made for the first few."""
    store, few, many = postgres_registry.store, 5, 600
    before = _stable(postgres_registry)
    victim, heir = postgres_registry.joins(), postgres_registry.joins()
    for n in range(many):
        victim.runs(f"{victim.id}-{n}", f"{victim.id}-{n}")
    victim.is_declared()
    while store.close_lost(victim.id, by="test", limit=few).more:
        pass
    while cases := store.take_cases("courier", SCOPE, limit=few):
        verdict = Verdict(VerdictKind.RESEND, "because", {})
        decided = store.decide_all([Judgement(one.recovery, verdict, None) for one in cases], by="courier")
        store.complete_all(decided, by="courier")
        ids = [one.attempt.task_id for one in cases]
        answers = heir.record(*(heir.wants(id, id, redelivered=True) for id in ids))
        assert [answer.kind for answer in answers] == ["granted"] * len(ids)
    postgres_registry.close()
    after = wait_for("its reading is counted", lambda: (now := _stable(postgres_registry)) > before and now)
    assert after - before < 40 * many


@contextmanager
def _by_index_where_there_is_one(registry: SqlRegistry) -> Iterator[None]:
    """PostgreSQL reads a table of one page from end to end, and when it does changes with its statistics."""
    [(name,)] = registry.rows("SELECT current_database()")
    _run(registry, f'ALTER DATABASE "{name}" SET enable_seqscan = off')
    registry.close()  # for connections that are made from now on
    try:
        yield
    finally:
        _run(registry, f'ALTER DATABASE "{name}" RESET enable_seqscan')


def _run(registry: SqlRegistry, statement: str) -> None:
    with registry.store.db.write():
        registry.store.db.run(statement)


def _rows_read(registry: SqlRegistry, count: int) -> int:
    """From tables and indexes, by PostgreSQL's own count, which a session hands in when it ends."""
    history(registry, count)
    sweep = a_sweep_of_three_losses(registry)
    registry.close()
    before = _stable(registry)
    sweep()
    registry.close()
    after = wait_for("its reading is counted", lambda: (now := _stable(registry)) > before and now)
    return int(after) - before


#: Sessions that have not ended yet, and may still hand in what they read.
_OTHERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


def _stable(registry: SqlRegistry) -> int:
    """The count, once all other sessions have ended and it stands still."""
    wait_for("the sessions have ended", lambda: registry.rows(_OTHERS) == [(0,)])
    seen = [-1]

    def look() -> bool:
        [(read,)] = registry.rows(
            "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint"
            " FROM pg_stat_user_tables"
        )
        registry.store.db.close()
        seen.append(int(read))
        return seen[-1] == seen[-2]

    wait_for("the count stands still", look)
    return seen[-1]
