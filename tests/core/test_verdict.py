"""Verdicts: every row of the table, and which row goes before which."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from crisper.core.gate import comes_back
from crisper.core.states import BRINGS_BACK, OnLost, VerdictKind
from crisper.core.verdict import DEAD_LETTERED, Facts, InBroker, judge, superseded_or_finished


def facts(**about: Any) -> Facts:
    return Facts(
        **{
            "cause": "worker",
            "ran": True,
            "started": True,
            "acks_late": True,
            "on_lost": OnLost.RESEND,
            "losses": 1,
            "loss_budget": 3,
            "kept": True,
            **about,
        }
    )


def kind(**about: Any) -> VerdictKind:
    return judge(facts(**about)).kind


OVER = {
    "child_said": "SUCCESS",
    "backend_state": "SUCCESS",
    "superseded": True,
    "revoked": True,
    "expired": True,
}


# It is over.


@pytest.mark.parametrize("evidence", ["child_said", "backend_state", "superseded"])
def test_what_has_an_outcome_is_settled(evidence: str) -> None:
    assert kind(**{evidence: OVER[evidence]}) is VerdictKind.SETTLED


def test_what_a_person_revoked_stays_revoked() -> None:
    assert kind(revoked=True) is VerdictKind.REVOKED


def test_what_expired_does_not_run_again() -> None:
    assert kind(expired=True) is VerdictKind.EXPIRED


def test_an_outcome_goes_before_a_revoke_and_that_before_an_expiry() -> None:
    assert kind(child_said="SUCCESS", revoked=True, expired=True) is VerdictKind.SETTLED
    assert kind(revoked=True, expired=True) is VerdictKind.REVOKED


@pytest.mark.parametrize("evidence", sorted(OVER))
def test_what_is_over_is_never_quarantined(evidence: str) -> None:
    assert kind(losses=99, **{evidence: OVER[evidence]}) is not VerdictKind.QUARANTINE


# The loss budget.


def test_a_loss_over_the_budget_is_quarantined() -> None:
    verdict = judge(facts(losses=4, loss_budget=3))
    assert verdict.kind is VerdictKind.QUARANTINE
    assert verdict.reason == "lost while running 4 times, its loss budget is 3"


def test_the_last_loss_within_the_budget_is_not() -> None:
    assert kind(losses=3, loss_budget=3) is not VerdictKind.QUARANTINE


def test_a_budget_of_nothing_quarantines_the_first_loss() -> None:
    assert kind(losses=1, loss_budget=0) is VerdictKind.QUARANTINE


def test_what_never_ran_is_never_quarantined() -> None:
    assert kind(losses=99, ran=False, started=False) is not VerdictKind.QUARANTINE


@pytest.mark.parametrize("on_lost", list(OnLost))
def test_the_budget_goes_before_policy(on_lost: OnLost) -> None:
    assert kind(losses=4, on_lost=on_lost) is VerdictKind.QUARANTINE


# Not yet acknowledged.

LATE = {"acks_late": True}
EARLY_NOT_BEGUN = {"acks_late": False, "ran": False, "started": False}
UNACKNOWLEDGED = pytest.mark.parametrize(
    "about", [LATE, EARLY_NOT_BEGUN], ids=["late acks", "early acks, not begun"]
)


@UNACKNOWLEDGED
def test_what_the_broker_holds_for_the_dead_worker_is_handed_back(about: dict[str, Any]) -> None:
    assert kind(in_broker=InBroker.UNACKED, **about) is VerdictKind.HAND_BACK


@UNACKNOWLEDGED
def test_what_is_back_in_its_queue_is_awaited(about: dict[str, Any]) -> None:
    assert kind(in_broker=InBroker.QUEUED, **about) is VerdictKind.AWAIT_REDELIVERY


@UNACKNOWLEDGED
def test_what_the_broker_requeues_by_itself_is_awaited(about: dict[str, Any]) -> None:
    assert kind(in_broker=InBroker.REQUEUES, **about) is VerdictKind.AWAIT_REDELIVERY


@UNACKNOWLEDGED
def test_what_the_broker_never_gives_back_is_sent_again(about: dict[str, Any]) -> None:
    assert kind(in_broker=InBroker.NEVER, **about) is VerdictKind.RESEND


def test_what_is_nowhere_in_the_broker_is_sent_again() -> None:
    assert kind(in_broker=InBroker.GONE) is VerdictKind.RESEND


@pytest.mark.parametrize("where", [InBroker.REQUEUES, InBroker.UNKNOWN])
def test_what_was_awaited_in_vain_is_sent_again(where: InBroker) -> None:
    assert kind(in_broker=where, overdue=True) is VerdictKind.RESEND
    assert kind(in_broker=where) is VerdictKind.AWAIT_REDELIVERY


def test_what_was_awaited_and_is_back_in_its_queue_is_awaited_on() -> None:
    assert kind(in_broker=InBroker.QUEUED, overdue=True) is VerdictKind.AWAIT_REDELIVERY


@pytest.mark.parametrize(
    "about", [{}, {"acks_late": False, "ran": True, "started": False}, {"copy_refused": True}]
)
def test_what_a_worker_says_it_has_is_waited_for_and_not_sent_again(about: dict[str, Any]) -> None:
    """A worker without Crisper, which claims nothing."""
    assert kind(in_broker=InBroker.TAKEN, overdue=True, **about) is VerdictKind.AWAIT_REDELIVERY


LIMITED: dict[str, Any] = {"in_broker": InBroker.REQUEUES, "delivery_limit": 2}


def test_what_was_awaited_in_vain_over_its_delivery_limit_is_its_owners_dead_letter() -> None:
    verdict = judge(facts(**LIMITED, overdue=True, delivery_count=2, dead_letter_exchange="dead"))
    assert verdict.kind is VerdictKind.HOLD
    assert verdict.reason == (
        "the broker dead-lettered it to dead: return number 3 is over its queue's delivery limit of 2"
    )
    assert verdict.evidence[DEAD_LETTERED] is True


def test_what_was_dropped_at_its_delivery_limit_is_sent_again_and_says_so() -> None:
    verdict = judge(facts(**LIMITED, overdue=True, delivery_count=2))
    assert verdict.kind is VerdictKind.RESEND
    assert "dropped it: return number 3 is over its queue's delivery limit of 2" in verdict.reason
    assert kind(**LIMITED, overdue=True, delivery_count=2, kept=False) is VerdictKind.HOLD


def test_below_its_delivery_limit_or_before_the_grace_nothing_is_a_dead_letter() -> None:
    about: dict[str, Any] = {**LIMITED, "dead_letter_exchange": "dead"}
    assert kind(**about, overdue=True, delivery_count=1) is VerdictKind.RESEND
    assert kind(**about, delivery_count=2) is VerdictKind.AWAIT_REDELIVERY
    refused = judge(facts(**about, overdue=True, delivery_count=2, copy_refused=True))
    assert refused.reason == "its only other delivery was refused as a copy"
    begun = facts(**about, overdue=True, delivery_count=2, acks_late=False, on_lost=OnLost.FAIL)
    assert judge(begun).kind is VerdictKind.FAIL, "it was acknowledged"


def test_a_message_whose_other_delivery_was_refused_as_a_copy_is_not_awaited() -> None:
    verdict = judge(facts(in_broker=InBroker.REQUEUES, copy_refused=True))
    assert (verdict.kind, verdict.reason) == (
        VerdictKind.RESEND,
        "its only other delivery was refused as a copy",
    )


def test_what_should_be_sent_again_and_is_not_kept_is_held_and_says_why() -> None:
    verdict = judge(facts(in_broker=InBroker.GONE, kept=False, why_not_kept="21.3 MiB > 16 MiB"))
    assert verdict.kind is VerdictKind.HOLD
    assert "not re-sendable: 21.3 MiB > 16 MiB" in verdict.reason


@pytest.mark.parametrize("where", [InBroker.UNACKED, InBroker.QUEUED, InBroker.REQUEUES])
def test_what_the_broker_gives_back_needs_no_kept_message(where: InBroker) -> None:
    assert kind(in_broker=where, kept=False) in (VerdictKind.HAND_BACK, VerdictKind.AWAIT_REDELIVERY)


# Acknowledged early, and running.

EARLY = {"acks_late": False}


@pytest.mark.parametrize("where", list(InBroker))
@pytest.mark.parametrize(
    ("on_lost", "expected"),
    [
        (OnLost.RESEND, VerdictKind.RESEND),
        (OnLost.FAIL, VerdictKind.FAIL),
        (OnLost.HOLD, VerdictKind.HOLD),
    ],
)
def test_what_was_acknowledged_and_ran_follows_policy(
    where: InBroker, on_lost: OnLost, expected: VerdictKind
) -> None:
    assert kind(in_broker=where, on_lost=on_lost, **EARLY) is expected


@pytest.mark.parametrize("where", [InBroker.GONE, InBroker.NEVER])
def test_what_was_dispatched_and_is_not_in_the_broker_may_have_begun_and_follows_policy(
    where: InBroker,
) -> None:
    about = {"acks_late": False, "ran": True, "started": False, "in_broker": where}
    assert kind(on_lost=OnLost.FAIL, **about) is VerdictKind.FAIL
    assert kind(on_lost=OnLost.RESEND, **about) is VerdictKind.RESEND


def test_what_was_dispatched_and_is_still_held_by_the_broker_had_not_begun() -> None:
    about = {"acks_late": False, "ran": True, "started": False, "on_lost": OnLost.FAIL}
    assert kind(in_broker=InBroker.UNACKED, **about) is VerdictKind.HAND_BACK


# Policy of those that acknowledge late.


@pytest.mark.parametrize("where", list(InBroker))
@pytest.mark.parametrize(
    ("on_lost", "expected"), [(OnLost.FAIL, VerdictKind.FAIL), (OnLost.HOLD, VerdictKind.HOLD)]
)
def test_a_late_acked_task_that_ran_follows_a_policy_that_says_no(
    where: InBroker, on_lost: OnLost, expected: VerdictKind
) -> None:
    assert kind(in_broker=where, on_lost=on_lost) is expected


@pytest.mark.parametrize("on_lost", list(OnLost))
def test_policy_says_nothing_about_a_late_acked_task_that_never_ran(on_lost: OnLost) -> None:
    about = {"ran": False, "started": False, "on_lost": on_lost}
    assert kind(in_broker=InBroker.UNACKED, **about) is VerdictKind.HAND_BACK
    assert kind(in_broker=InBroker.GONE, **about) is VerdictKind.RESEND


# Every combination there is.


def _everything() -> list[Facts]:
    return [
        facts(
            ran=ran, started=ran and started, acks_late=late, on_lost=on_lost, losses=losses, kept=kept,
            why_not_kept=None if kept else "too large", in_broker=where, copy_refused=copy, overdue=overdue,
        )
        for ran, started, late, on_lost, losses, kept, where, copy, overdue in itertools.product(
            (False, True), (False, True), (False, True), OnLost, (1, 4), (False, True), InBroker,
            (False, True), (False, True),
        )
    ]  # fmt: skip


def test_every_verdict_says_why_and_on_what_evidence() -> None:
    for of in _everything():
        verdict = judge(of)
        assert verdict.reason
        assert verdict.evidence["on_lost"] == of.on_lost
        assert verdict.evidence["in_broker"] == of.in_broker


def test_nothing_that_may_have_run_runs_again_without_consent() -> None:
    for of in _everything():
        if of.started and of.on_lost is not OnLost.RESEND:
            assert judge(of).kind not in BRINGS_BACK, of


def test_nothing_is_sent_again_that_is_not_kept() -> None:
    for of in _everything():
        if not of.kept:
            assert judge(of).kind is not VerdictKind.RESEND


def test_what_the_gate_grants_before_a_verdict_no_verdict_would_have_ended() -> None:
    """The gate may go first only where the courier would bring the task back, too, or cannot."""
    for of in _everything():
        if of.acks_late and comes_back(
            ran=of.ran, losses=of.losses, loss_budget=of.loss_budget, on_lost=of.on_lost
        ):
            verdict = judge(of)
            assert verdict.kind in BRINGS_BACK or (verdict.kind is VerdictKind.HOLD and not of.kept), of


# What the registry knows of a task's other attempts.


def test_only_a_higher_retry_supersedes() -> None:
    assert superseded_or_finished(1, 0, [(1, 0, "lost", None), (2, 1, "claimed", None)]) == (True, False)
    assert superseded_or_finished(2, 1, [(1, 0, "retried", None), (2, 1, "lost", None)]) == (False, False)


@pytest.mark.parametrize("state", ["succeeded", "failed", "revoked"])
def test_only_an_earlier_attempt_finished_before(state: str) -> None:
    assert superseded_or_finished(2, 0, [(1, 0, state, None)])[1]
    assert not superseded_or_finished(1, 0, [(2, 0, state, None)])[1]


@pytest.mark.parametrize("verdict", ["fail", "recover"])
def test_what_policy_failed_had_stored_a_result(verdict: str) -> None:
    assert superseded_or_finished(2, 0, [(1, 0, "lost", verdict)])[1]
    assert not superseded_or_finished(2, 0, [(1, 0, "lost", "resend")])[1]


def test_what_vanished_is_sent_again_at_once_and_held_if_it_vanishes_again() -> None:
    for in_broker in InBroker:
        gone = judge(facts(cause="vanished", ran=False, started=False, in_broker=in_broker))
        assert gone.kind is VerdictKind.RESEND
        assert gone.reason == "it was published, never claimed, and is nowhere in the broker"
        again = judge(facts(cause="vanished again", ran=False, started=False, in_broker=in_broker))
        assert again.kind is VerdictKind.HOLD
    assert kind(cause="vanished", ran=False, started=False, kept=False) is VerdictKind.HOLD
    assert kind(cause="vanished", ran=False, started=False, expired=True) is VerdictKind.EXPIRED


# What the kernel killed for memory.

KILLED = "killed by the kernel for memory (2.1 GiB of 2.0 GiB)"


def test_a_verdict_says_that_the_kernel_killed_it_for_memory_and_how_often_it_was_lost() -> None:
    verdict = judge(facts(killed_for=KILLED, ran=True, losses=3, loss_budget=2))
    assert verdict.kind is VerdictKind.QUARANTINE
    assert verdict.reason == f"{KILLED}, lost while running 3 times, its loss budget is 2"
    assert judge(facts(killed_for=KILLED)).reason.startswith(f"{KILLED}, ")


def test_of_what_has_an_outcome_nobody_is_told_how_its_process_ended() -> None:
    assert judge(facts(killed_for=KILLED, child_said="succeeded")).reason.startswith("its process reported")
