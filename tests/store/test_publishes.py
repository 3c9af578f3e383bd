"""Publishing on record: a message is looked for until it is claimed; a vanished one is sent again once."""

from __future__ import annotations

from typing import Any

import pytest

from crisper.core.model import Look, Published
from crisper.core.states import RecoveryState, State, VerdictKind
from tests.store.acting import KEPT, SCOPE, Registry

GRACE = 30_000


def published(task_id: str = "t", message_id: str = "", scope: str = SCOPE, age_ms: int = 0) -> Published:
    id = message_id or f"m-{task_id}"
    return Published(id, task_id, scope, "app.task", "q", 0, 3, KEPT, "[1]", "{}", age_ms)


def publishes(registry: Registry, *messages: Published, due_in_ms: int = 0) -> None:
    registry.store.publish(messages, due_in_ms=due_in_ms)


def takes(registry: Registry, scope: str = SCOPE) -> list[Published]:
    taken: list[Published] = registry.store.take_unclaimed(scope, limit=100)
    return taken


def unclaimed(registry: Registry, scope: str = SCOPE) -> list[str]:
    return [one.task_id for one in takes(registry, scope)]


def vanishes(registry: Registry) -> list[str]:
    """A courier takes what is due, and finds it nowhere."""
    return declares(registry, takes(registry))


def declares(registry: Registry, taken: list[Published]) -> list[str]:
    mine = [(one.message_id, one.until) for one in taken]
    told: dict[str, Any] = {"by": "w", "evidence": {"how": "looked"}, "due_in_ms": 0}
    declared: list[str] = registry.store.declare_vanished(mine, **told)
    return declared


def test_what_nobody_claims_is_due_once_its_time_has_come(registry: Registry) -> None:
    publishes(registry, published("soon", age_ms=GRACE), published("later"), due_in_ms=GRACE)
    assert unclaimed(registry) == ["soon"]


def test_what_one_courier_looks_for_no_other_does(registry: Registry) -> None:
    publishes(registry, published())
    assert unclaimed(registry) == ["t"]
    assert unclaimed(registry) == []


def test_a_courier_looks_for_its_own_scope_only(registry: Registry) -> None:
    publishes(registry, published(), published("other", scope="elsewhere"))
    assert unclaimed(registry) == ["t"]


def test_what_was_looked_for_in_vain_is_due_again_and_remembers_it(registry: Registry) -> None:
    publishes(registry, published())
    [taken] = takes(registry)
    registry.store.look_again([Look("m-t", taken.until, 1, 0)])
    [again] = registry.store.take_unclaimed(SCOPE, limit=1)
    assert (again.message_id, again.missing, again.vanished, again.message) == ("m-t", 1, 0, KEPT)


def test_a_claimed_message_is_forgotten_whether_it_was_published_before_or_after(registry: Registry) -> None:
    me = registry.joins()
    publishes(registry, published("before"))
    me.claims("before", "m-before")
    me.claims("after", "m-after")
    publishes(registry, published("after"))
    assert unclaimed(registry) == []


def test_what_is_claimed_while_it_is_looked_for_has_not_vanished(registry: Registry) -> None:
    publishes(registry, published())
    taken = takes(registry)
    registry.joins().claims("t", "m-t")
    assert declares(registry, taken) == []
    assert registry.recoveries("t") == []


def test_a_courier_that_is_late_changes_nothing_of_what_another_has_taken_since(registry: Registry) -> None:
    publishes(registry, published())
    [mine] = takes(registry)
    registry.store.look_again([Look("m-t", mine.until, 0, 0)])
    [theirs] = registry.store.take_unclaimed(SCOPE, limit=1)
    late = mine._replace(until=theirs.until - 1)
    assert declares(registry, [late]) == []
    registry.store.look_again([Look("m-t", late.until, 7, 0)])
    assert unclaimed(registry) == []
    assert declares(registry, [theirs]) == ["t"]


def test_another_message_of_the_task_claims_nothing(registry: Registry) -> None:
    registry.joins().claims("t")
    publishes(registry, published(message_id="another"))
    assert unclaimed(registry) == ["t"]


def test_repeating_a_publish_changes_nothing(registry: Registry) -> None:
    publishes(registry, published())
    vanishes(registry)
    publishes(registry, published())
    [one] = registry.store.take_unclaimed(SCOPE, limit=9)
    assert one.vanished == 1


def test_what_did_not_leave_is_not_looked_for(registry: Registry) -> None:
    publishes(registry, published())
    registry.store.retract("m-t")
    registry.store.retract("never there")
    assert unclaimed(registry) == []


def test_a_vanished_message_is_a_lost_attempt_that_never_ran(registry: Registry) -> None:
    publishes(registry, published())
    assert vanishes(registry) == ["t"]
    attempt = registry.attempt("t")
    assert (attempt.state, attempt.ran, attempt.counted, attempt.incarnation) == (
        State.LOST,
        False,
        False,
        "",
    )
    [case] = registry.store.take_cases("courier", SCOPE, limit=9)
    assert (case.recovery.cause, case.recovery.losses, case.message) == ("vanished", 0, KEPT)
    assert [event.data["times"] for event in registry.events("vanished", "t")] == [1]


def test_a_vanished_message_that_was_sent_again_runs_as_the_next_attempt(registry: Registry) -> None:
    publishes(registry, published())
    vanishes(registry)
    [case] = registry.store.take_cases("courier", SCOPE, limit=9)
    decided = registry.store.decide(case.recovery, VerdictKind.RESEND, "gone", {}, by="w")
    assert registry.store.complete(decided, by="w", data={})
    me = registry.joins()
    me.finishes(me.claims("t", "m-t"))
    assert [(a.number, a.state) for a in registry.attempts("t")] == [(1, State.LOST), (2, State.SUCCEEDED)]
    assert unclaimed(registry) == []


def test_the_vanished_message_may_turn_up_after_all_and_runs_once(registry: Registry) -> None:
    publishes(registry, published())
    vanishes(registry)
    me, other = registry.joins(), registry.joins()
    me.claims("t", "m-t")
    assert other.asks(other.wants("t", "m-t")).kind == "parked"
    assert registry.recoveries("t")[0].state is RecoveryState.DONE


def test_what_vanishes_again_is_told_so_and_not_looked_for_any_more(registry: Registry) -> None:
    publishes(registry, published())
    assert vanishes(registry) == vanishes(registry) == ["t"]
    assert [r.cause for r in registry.recoveries("t")] == ["vanished", "vanished again"]
    assert vanishes(registry) == []
    assert unclaimed(registry) == []


def test_what_vanished_twice_is_kept_once_as_soon_as_it_runs(registry: Registry) -> None:
    publishes(registry, published())
    assert vanishes(registry) == vanishes(registry) == ["t"]
    registry.joins().claims("t", "m-t")
    assert [registry.body("t", number) for number in (1, 2, 3)] == [None, None, KEPT.body]


@pytest.mark.parametrize("odd", ["\0", "\ud800", "x" * 5000])
def test_odd_ids_are_claimed_as_they_are_published(registry: Registry, odd: str) -> None:
    publishes(registry, published(odd))
    [taken] = takes(registry)
    registry.joins().claims(odd, f"m-{odd}")
    assert declares(registry, [taken]) == []
