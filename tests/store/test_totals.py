"""Totals are counted once, in order, and outlive what they count; on every registry that a server keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from crisper.core.states import VerdictKind
from crisper.store import totals
from crisper.store.open import open_store
from crisper.store.sql import SqlStore
from tests.store.acting import KEPT, SCOPE, Registry

#: As if all that was written were a minute old.
AT_ONCE = -60_000


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def kept(request: pytest.FixtureRequest) -> Registry:
    registry: Registry = request.getfixturevalue(f"{request.param}_registry")
    while totals.follow(store_of(registry), lag_ms=AT_ONCE):
        pass
    return registry


@pytest.fixture
def other(kept: Registry) -> Iterator[SqlStore]:
    with closing(open_store(kept.url)) as store:  # type: ignore[attr-defined]
        yield store


def store_of(registry: Registry) -> SqlStore:
    assert isinstance(registry.store, SqlStore)
    return registry.store


def loses_one(registry: Registry) -> None:
    me, witness = registry.joins(), registry.joins()
    me.runs(message=KEPT)
    me.is_lost()
    [case] = registry.store.take_cases(witness.id, SCOPE, limit=10)
    assert registry.store.decide(case.recovery, VerdictKind.HOLD, "so", {}, by="w") is not None


def grown(registry: Registry, before: totals.Totals) -> dict[str, int]:
    after = totals.read(store_of(registry))
    kinds = after.events.keys() | before.events.keys()
    growth = {kind: after.events.get(kind, 0) - before.events.get(kind, 0) for kind in kinds}
    return {kind: count for kind, count in growth.items() if count}


def test_each_event_is_counted_once_whoever_counts(kept: Registry, other: SqlStore) -> None:
    before = totals.read(store_of(kept))
    loses_one(kept)
    counted = totals.follow(other, limit=2, lag_ms=AT_ONCE)
    while some := totals.follow(store_of(kept), limit=2, lag_ms=AT_ONCE):
        counted += some
    assert totals.follow(other, lag_ms=AT_ONCE) == 0
    growth = grown(kept, before)
    assert sum(growth.values()) == counted
    assert (growth["lost"], growth["verdict"], growth["worker_enrolled"]) == (1, 1, 2)


def test_verdicts_are_counted_by_what_they_said(kept: Registry) -> None:
    before = totals.read(store_of(kept)).verdicts.get("hold", 0)
    loses_one(kept)
    totals.follow(store_of(kept), lag_ms=AT_ONCE)
    assert totals.read(store_of(kept)).verdicts["hold"] == before + 1


def test_what_is_pruned_stays_counted(kept: Registry) -> None:
    loses_one(kept)
    totals.follow(store_of(kept), lag_ms=AT_ONCE)
    before = totals.read(store_of(kept))
    with store_of(kept).db.write():
        assert store_of(kept).db.run("DELETE FROM crisper_event") > 0
    assert totals.follow(store_of(kept), lag_ms=AT_ONCE) == 0
    assert totals.read(store_of(kept)) == before


def test_what_an_older_event_may_still_overtake_is_counted_later(kept: Registry) -> None:
    before = totals.read(store_of(kept))
    loses_one(kept)
    assert totals.follow(store_of(kept)) == 0
    assert totals.read(store_of(kept)) == before
    assert totals.follow(store_of(kept), lag_ms=AT_ONCE) > 0
