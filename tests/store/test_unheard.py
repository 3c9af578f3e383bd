"""A redelivered message that nobody has on record may have run where nobody hears of it."""

from __future__ import annotations

import pytest

from crisper.core.model import Claim, Pulse
from crisper.core.states import State
from crisper.store.sql.claims import Claims
from tests.store.acting import SCOPE, Actor, Registry, SqlRegistry


def asks(me: Actor, *renewing: str, **about: object) -> str:
    return me.asks(me.wants(**{"redelivered": True, **about}), renewing=renewing).kind


def test_it_waits_while_a_worker_of_its_scope_does_not_renew_and_runs_when_that_one_is_declared(
    registry: Registry,
) -> None:
    me, unheard = registry.joins(), registry.joins()
    assert asks(me) == "parked"
    assert registry.attempts("t") == []
    unheard.is_lost()
    assert asks(me) == "granted"


def test_it_runs_at_once_where_everybody_is_heard_of(registry: Registry) -> None:
    me, heard = registry.joins(), registry.joins()
    assert asks(me, heard.id) == "granted"


def test_it_waits_while_somebody_has_a_journal_to_replay(registry: Registry) -> None:
    me, other = registry.joins(), registry.joins()
    registry.store.renew(other.fence, Pulse(1, 2, 3, {"journal": 4096}))
    assert asks(me, other.id) == "parked"
    registry.store.renew(other.fence, Pulse(1, 2, 3, {}))
    assert asks(me, other.id) == "granted"


def test_workers_of_other_scopes_cannot_have_run_it(registry: Registry) -> None:
    me = registry.joins()
    registry.joins(scope=f"not {SCOPE}")
    assert asks(me) == "granted"


def test_what_was_never_delivered_before_runs_at_once(registry: Registry) -> None:
    me = registry.joins()
    registry.joins()
    assert asks(me, redelivered=False) == "granted"


def test_what_is_on_record_is_answered_by_its_record(registry: Registry) -> None:
    me, unheard = registry.joins(), registry.joins()
    unheard.ends("t", "m", State.SUCCEEDED)
    assert asks(me) == "refused"


def test_what_a_journal_brings_on_record_while_the_gate_looks_does_not_run_again(
    served: SqlRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    me, other = served.joins(), Actor(served.another())
    other.store.renew(other.fence, Pulse(1, 2, 3, {"journal": 4096}))
    is_doubted, replayed = Claims._is_doubted, False

    def replays_meanwhile(self: Claims, claim: Claim) -> bool:
        nonlocal replayed
        if not replayed:
            replayed = True
            other.ends("t", "m", State.SUCCEEDED)
            other.store.renew(other.fence, Pulse(1, 2, 3, {}))
        return is_doubted(self, claim)

    monkeypatch.setattr(Claims, "_is_doubted", replays_meanwhile)
    assert asks(me, other.id) == "refused"
    assert served.states("t") == [State.SUCCEEDED]


def test_who_has_not_looked_judges_nobody(registry: Registry) -> None:
    me = registry.joins()
    registry.joins()
    [answer] = registry.store.record(me.fence, [me.wants(redelivered=True)])
    assert answer.kind == "granted"


# -- what ran meanwhile -------------------------------------------------------------


def test_a_provisional_claim_without_a_rival_is_an_attempt_like_any_other(registry: Registry) -> None:
    me = registry.joins()
    registry.joins()
    assert asks(me, provisional=me.id) == "granted"
    assert registry.states("t") == [State.CLAIMED]


def test_with_a_rival_it_is_an_overlap_and_stays_one(registry: Registry) -> None:
    me, rival = registry.joins(), registry.joins()
    rival.runs()
    wanted = me.wants(provisional=me.id)
    first = me.asks(wanted)
    assert (first.kind, first.number) == ("overlap", 1)
    rival.is_lost()
    assert me.asks(wanted) == first
    assert len(registry.events("overlap", "t")) == 1
    assert registry.states("t") == [State.LOST]


def test_a_finished_message_that_ran_again_meanwhile_is_an_overlap(registry: Registry) -> None:
    me, rival = registry.joins(), registry.joins()
    rival.ends("t", "m", State.SUCCEEDED)
    assert asks(me, provisional=me.id, redelivered=False) == "overlap"
    assert registry.states("t") == [State.SUCCEEDED]


def test_its_outcome_is_a_late_finish(registry: Registry) -> None:
    me, rival = registry.joins(), registry.joins()
    rival.runs()
    wanted = me.wants(provisional=me.id)
    me.asks(wanted)
    assert me.finishes(wanted).kind == "late"
    assert registry.states("t") == [State.RUNNING]
