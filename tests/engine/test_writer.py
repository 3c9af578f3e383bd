"""The writer: group commit, merged starts, parked claims that ask again, and nothing forgotten."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest

from crisper.core.model import Answer, ChildLost, Claim, Fence, Finish, Record
from crisper.core.states import State, VerdictKind
from crisper.engine.writer import BATCH, PARKED_MS, START_AFTER_MS, Writer
from crisper.errors import Fenced, RegistryUnreachable
from crisper.store.memory import MemoryStore
from tests.store.acting import Actor, MemoryRegistry, Registry, SqlRegistry, start

FIRST, MORE = 1_000_000, 1_000


class OutOfReach(MemoryStore):
    """A registry that can be away, and that counts its transactions."""

    def __init__(self) -> None:
        super().__init__()
        self.away, self.transactions, self.loses_reply = False, 0, False

    def record(
        self, fence: Fence, records: Sequence[Record], *, renewing: Collection[str] = ()
    ) -> list[Answer]:
        if self.away:
            raise RegistryUnreachable("it is away")
        self.transactions += 1
        answers = super().record(fence, records, renewing=renewing)
        if self.loses_reply:
            raise RegistryUnreachable("the reply was lost")
        return answers


class AwayRegistry(MemoryRegistry):
    def __init__(self) -> None:
        self.store = OutOfReach()


@pytest.fixture
def away() -> AwayRegistry:
    return AwayRegistry()


def word(of: Claim, state: State = State.SUCCEEDED) -> Finish:
    return Finish(-of.seq, of.seq, of.task_id, state, "its process said so itself", 5)


def kinds(answers: Sequence[Answer]) -> list[tuple[int, str]]:
    return [(answer.seq, answer.kind) for answer in answers]


# -- group commit -------------------------------------------------------------------


def test_whatever_gathered_is_one_transaction(away: AwayRegistry) -> None:
    actor = away.joins()
    writer = Writer(away.store, actor.fence)
    claims = [actor.wants(f"t{n}", f"m{n}") for n in range(200)]
    for claim in claims:
        writer.add(FIRST, claim)
    written = writer.write(FIRST)
    assert away.store.transactions == 1
    assert (written.records, written.durable) == (200, claims[-1].seq)
    assert kinds(written.answers) == [(claim.seq, "granted") for claim in claims]
    assert len(writer) == 0


def test_a_transaction_has_a_bound_and_the_rest_follows_in_order(away: AwayRegistry) -> None:
    actor = away.joins()
    writer = Writer(away.store, actor.fence)
    for n in range(BATCH + 1):
        writer.add(FIRST, actor.wants(f"t{n}", f"m{n}"))
    assert writer.write(FIRST).durable == BATCH
    assert writer.due(FIRST) == 0
    assert writer.write(FIRST).durable == BATCH + 1
    assert away.store.transactions == 2


def test_past_the_trust_window_outcomes_are_written_and_nothing_new_is_claimed(registry: Registry) -> None:
    actor = registry.joins()
    running = actor.wants("t1", "m1")
    writer = Writer(registry.store, actor.fence)
    writer.add(FIRST, running)
    writer.write(FIRST)
    outcome, waiting = actor.finish(running), actor.wants("t2", "m2")
    for record in (outcome, waiting, start(waiting)):
        writer.add(FIRST, record)

    untrusted = writer.write(FIRST + MORE, claims=False)
    assert kinds(untrusted.answers) == [(outcome.seq, "closed")]
    assert untrusted.durable == outcome.seq
    assert writer.write(FIRST + MORE, claims=False).records == 0
    assert writer.due(FIRST + MORE) == 0, "what waits for the lease is not forgotten"

    assert kinds(writer.write(FIRST + MORE).answers) == [(waiting.seq, "granted")]


def test_nothing_to_write_opens_no_transaction(away: AwayRegistry) -> None:
    writer = Writer(away.store, away.joins().fence)
    assert writer.due(FIRST) is None
    assert writer.write(FIRST).records == 0
    assert away.store.transactions == 0


# -- starts -------------------------------------------------------------------------


def test_a_short_task_costs_two_row_writes(sqlite_registry: SqlRegistry) -> None:
    actor, connection = sqlite_registry.joins(), sqlite_registry.store.db._connect()
    writer = Writer(sqlite_registry.store, actor.fence)
    before = connection.total_changes
    claim = actor.wants()
    writer.add(FIRST, claim)
    writer.write(FIRST)
    writer.add(FIRST + 5, start(claim))
    assert writer.due(FIRST + 5) == START_AFTER_MS
    writer.add(FIRST + 20, actor.finish(claim, runtime_ms=15))
    writer.write(FIRST + 20)
    assert connection.total_changes - before == 2
    attempt = sqlite_registry.attempt("t")
    assert (attempt.state, attempt.pid, attempt.runtime_ms) == (State.SUCCEEDED, 4242, 15)
    assert attempt.started_at is not None
    assert writer.due(FIRST + 20) is None


def test_a_longer_task_is_seen_running_and_costs_three(sqlite_registry: SqlRegistry) -> None:
    actor, connection = sqlite_registry.joins(), sqlite_registry.store.db._connect()
    writer = Writer(sqlite_registry.store, actor.fence)
    before = connection.total_changes
    claim = actor.wants()
    writer.add(FIRST, claim)
    writer.add(FIRST, start(claim))
    writer.write(FIRST)
    assert sqlite_registry.states("t") == [State.CLAIMED]
    writer.write(FIRST + START_AFTER_MS)
    assert sqlite_registry.states("t") == [State.RUNNING]
    writer.add(FIRST + MORE, actor.finish(claim, runtime_ms=MORE))
    writer.write(FIRST + MORE)
    assert connection.total_changes - before == 3


def test_the_start_of_a_child_that_died_is_written_before_its_loss(registry: Registry) -> None:
    """That it ran decides about its loss budget; so it may not be merged away."""
    actor = registry.joins()
    writer = Writer(registry.store, actor.fence)
    claim = actor.wants()
    writer.add(FIRST, claim)
    writer.add(FIRST, start(claim))
    writer.add(FIRST, ChildLost(actor.next(), claim.seq, "t", True, {"signal": 9}))
    writer.write(FIRST)
    attempt = registry.attempt("t")
    assert (attempt.state, attempt.counted, attempt.pid) == (State.LOST, True, 4242)


# -- parked claims ------------------------------------------------------------------


def test_a_parked_claim_asks_again_and_is_news_only_when_its_answer_changes(registry: Registry) -> None:
    holder, other = registry.joins(), registry.joins(hostname="celery@other")
    held = holder.runs()
    writer = Writer(registry.store, other.fence)
    asked = other.wants(redelivered=True)
    writer.add(FIRST, asked)
    assert kinds(writer.write(FIRST).answers) == [(asked.seq, "parked")]
    assert writer.due(FIRST) is not None
    assert writer.write(FIRST + PARKED_MS).answers == []
    holder.finishes(held)
    assert kinds(writer.write(FIRST + 2 * PARKED_MS).answers) == [(asked.seq, "refused")]
    assert writer.due(FIRST + 3 * PARKED_MS) is None


def test_a_parked_claim_is_granted_once_its_holder_is_lost(registry: Registry) -> None:
    holder, other = registry.joins(), registry.joins(hostname="celery@other")
    holder.runs()
    writer = Writer(registry.store, other.fence)
    asked = other.wants(redelivered=True)
    writer.add(FIRST, asked)
    writer.write(FIRST)
    holder.is_lost()
    registry.decided("t", VerdictKind.AWAIT_REDELIVERY)
    assert kinds(writer.write(FIRST + PARKED_MS).answers) == [(asked.seq, "granted")]
    assert registry.states("t") == [State.LOST, State.CLAIMED]


def test_a_parked_claim_that_was_dropped_asks_no_more(registry: Registry) -> None:
    holder, other = registry.joins(), registry.joins(hostname="celery@other")
    holder.runs()
    writer = Writer(registry.store, other.fence)
    asked = other.wants(redelivered=True)
    writer.add(FIRST, asked)
    writer.write(FIRST)
    writer.drop(asked.seq)
    holder.is_lost()
    assert writer.due(FIRST + PARKED_MS) is None
    assert writer.write(FIRST + PARKED_MS).records == 0
    assert registry.states("t") == [State.LOST]


@pytest.mark.parametrize("commits", [1, 2])
def test_a_parked_claim_whose_delivery_ended_is_never_granted(registry: Registry, commits: int) -> None:
    """Celery ends an expired or revoked one before anybody was asked."""
    holder, other = registry.joins(), registry.joins(hostname="celery@other")
    holder.runs()
    writer = Writer(registry.store, other.fence)
    asked = other.wants(redelivered=True)
    writer.add(FIRST, asked)
    if commits == 2:
        writer.write(FIRST)
    writer.add(FIRST, Finish(asked.seq + 1, asked.seq, asked.task_id, State.EXPIRED, "expired"))
    writer.write(FIRST)
    holder.is_lost()
    assert writer.due(FIRST + PARKED_MS) is None
    writer.write(FIRST + PARKED_MS)
    assert registry.states("t") == [State.LOST]


# -- a child's own word -------------------------------------------------------------


def test_a_childs_word_outweighs_its_death(registry: Registry) -> None:
    actor = registry.joins()
    writer = Writer(registry.store, actor.fence)
    claim = actor.wants()
    writer.add(FIRST, claim)
    writer.heard(FIRST + 1, word(claim))
    loss = ChildLost(actor.next(), claim.seq, "t", True, {"signal": 9})
    writer.add(FIRST + 2, loss)
    assert (loss.seq, "closed") in kinds(writer.write(FIRST + 2).answers)
    assert registry.states("t") == [State.SUCCEEDED]
    assert registry.recoveries("t") == []


def test_a_childs_word_outweighs_a_release_that_did_not_hear_of_the_end(registry: Registry) -> None:
    actor = registry.joins()
    ended, cut = actor.wants("t1", "m1"), actor.wants("t2", "m2")
    writer = Writer(registry.store, actor.fence)
    for claim in (ended, cut):
        writer.add(FIRST, claim)
    writer.heard(FIRST, word(ended))
    for claim in (ended, cut):
        writer.add(FIRST, actor.finish(claim, State.RELEASED))
    writer.write(FIRST)
    assert registry.states("t1") == [State.SUCCEEDED]
    assert registry.states("t2") == [State.RELEASED]


def test_without_its_word_a_dead_childs_attempt_is_lost(registry: Registry) -> None:
    actor = registry.joins()
    writer = Writer(registry.store, actor.fence)
    claim = actor.wants()
    writer.add(FIRST, claim)
    writer.add(FIRST + 2, ChildLost(actor.next(), claim.seq, "t", True, {"signal": 9}))
    writer.write(FIRST + 2)
    assert registry.states("t") == [State.LOST]


def test_a_word_becomes_the_outcome_when_the_parent_is_dead_and_not_before(registry: Registry) -> None:
    actor = registry.joins()
    writer = Writer(registry.store, actor.fence)
    claim = actor.wants()
    writer.add(FIRST, claim)
    writer.heard(FIRST + 1, word(claim, State.FAILED))
    writer.write(FIRST + 1)
    assert registry.states("t") == [State.CLAIMED]
    writer.last_words(FIRST + 2)
    writer.write(FIRST + 2)
    assert registry.states("t") == [State.FAILED]


def test_last_words_write_what_was_running_at_once(registry: Registry) -> None:
    actor = registry.joins()
    writer = Writer(registry.store, actor.fence)
    claim = actor.wants()
    writer.add(FIRST, claim)
    writer.add(FIRST, start(claim))
    writer.last_words(FIRST)
    writer.write(FIRST)
    assert registry.states("t") == [State.RUNNING]


# -- trouble ------------------------------------------------------------------------


def test_nothing_is_forgotten_while_the_registry_is_away(away: AwayRegistry) -> None:
    actor = away.joins()
    writer = Writer(away.store, actor.fence)
    done, running = actor.wants("done", "m1"), actor.wants("running", "m2")
    for record in (done, running):
        writer.add(FIRST, record)
    writer.add(FIRST, start(running))
    finish = actor.finish(done, runtime_ms=1)
    writer.add(FIRST, finish)
    away.store.away = True
    for later in range(3):
        with pytest.raises(RegistryUnreachable):
            writer.write(FIRST + later * MORE)
    assert writer.due(FIRST + 3 * MORE) == 0
    away.store.away = False
    written = writer.write(FIRST + 3 * MORE)
    assert written.durable == finish.seq
    assert kinds(written.answers) == [(done.seq, "granted"), (running.seq, "granted"), (finish.seq, "closed")]
    assert (away.states("done"), away.states("running")) == ([State.SUCCEEDED], [State.RUNNING])


def test_a_parked_claim_survives_an_outage(away: AwayRegistry) -> None:
    holder, other = away.joins(), away.joins(hostname="celery@other")
    held = holder.runs()
    writer = Writer(away.store, other.fence)
    asked = other.wants(redelivered=True)
    writer.add(FIRST, asked)
    writer.write(FIRST)
    away.store.away = True
    with pytest.raises(RegistryUnreachable):
        writer.write(FIRST + PARKED_MS)
    away.store.away = False
    holder.finishes(held)
    assert kinds(writer.write(FIRST + 3 * PARKED_MS).answers) == [(asked.seq, "refused")]


def test_what_was_written_but_never_confirmed_is_answered_the_same_again(registry: Registry) -> None:
    """A recorder that dies between commit and answer; its successor is sent everything again."""
    actor = registry.joins()
    claim = actor.wants()
    finish = actor.finish(claim, runtime_ms=1)
    first = Writer(registry.store, actor.fence)
    for record in (claim, finish):
        first.add(FIRST, record)
    first.write(FIRST)
    fence = registry.store.replace_recorder(actor.fence)
    assert fence is not None
    second = Writer(registry.store, fence)
    for record in (claim, finish):
        second.add(FIRST, record)
    assert kinds(second.write(FIRST).answers) == [(claim.seq, "granted"), (finish.seq, "closed")]
    assert registry.states("t") == [State.SUCCEEDED]


def test_a_replaced_recorders_writer_can_write_nothing(registry: Registry) -> None:
    actor = registry.joins()
    hung = Writer(registry.store, actor.fence)
    hung.add(FIRST, actor.wants())
    registry.store.replace_recorder(actor.fence)
    with pytest.raises(Fenced):
        hung.write(FIRST)
    assert registry.attempts("t") == []


def test_a_record_that_the_registry_will_not_take_does_not_stop_the_others(shared: SqlRegistry) -> None:
    actor = shared.joins()
    told: list[str] = []
    writer = Writer(shared.store, actor.fence, on_error=told.append)
    good = actor.wants("good", "m1")
    poisoned = actor.wants("poisoned", "m2", retries=-(2**80))
    after = actor.wants("after", "m3")
    of_poisoned = actor.finish(poisoned, runtime_ms=1)
    for record in (good, poisoned, after, of_poisoned):
        writer.add(FIRST, record)
    written = writer.write(FIRST)
    assert written.durable == of_poisoned.seq
    assert dict(kinds(written.answers)) == {
        good.seq: "granted",
        poisoned.seq: "put_back",
        after.seq: "granted",
        of_poisoned.seq: "late",
    }
    assert (shared.states("good"), shared.states("after")) == ([State.CLAIMED], [State.CLAIMED])
    assert shared.attempts("poisoned") == []
    assert len(told) == 1
    assert "claim" in told[0]


def test_ages_reach_the_registry_whatever_the_wait(memory_registry: MemoryRegistry) -> None:
    actor: Actor = memory_registry.joins()
    writer = Writer(memory_registry.store, actor.fence)
    writer.add(FIRST, actor.wants())
    writer.write(FIRST + 7_000)
    assert memory_registry.attempt("t").received_at == memory_registry.now - 7_000


def test_what_was_granted_unheard_is_a_couriers_when_its_delivery_is_gone(
    away: AwayRegistry,
) -> None:
    """Else it would stay claimed as long as its worker lives, and its message be parked everywhere."""
    rival, me = away.joins(), away.joins()
    held = rival.claims("t", "m")
    writer = Writer(away.store, me.fence)
    parked = me.wants("t", "m")
    writer.add(FIRST, parked)
    assert kinds(writer.write(FIRST).answers) == [(parked.seq, "parked")]
    rival.finishes(held, State.RELEASED)
    away.store.loses_reply = True
    with pytest.raises(RegistryUnreachable):
        writer.write(FIRST + PARKED_MS)
    away.store.loses_reply = False
    assert away.states("t") == [State.RELEASED, State.CLAIMED]
    writer.drop(parked.seq)
    writer.write(FIRST + 2 * PARKED_MS)
    assert away.states("t") == [State.RELEASED, State.LOST]
    assert away.recovery("t", 2).losses == 0


def test_what_a_writer_before_was_granted_unheard_is_a_couriers_too(away: AwayRegistry) -> None:
    """The next writer is told of the claim, and that it is gone, while the registry is away."""
    rival, me = away.joins(), away.joins()
    held = rival.claims("t", "m")
    parked = me.wants("t", "m", redelivered=True)
    before = Writer(away.store, me.fence)
    before.add(FIRST, parked)
    before.write(FIRST)
    rival.finishes(held, State.RELEASED)
    before.write(FIRST + PARKED_MS)
    assert away.states("t") == [State.RELEASED, State.CLAIMED]
    writer = Writer(away.store, me.fence)
    writer.add(FIRST, parked, again=True)
    away.store.away = True
    assert kinds(writer.journal(FIRST, lambda batch: None).answers) == [(parked.seq, "parked")]
    away.store.away = False
    writer.drop(parked.seq)
    writer.write(FIRST + 3 * PARKED_MS)
    assert away.states("t") == [State.RELEASED, State.LOST]


def test_a_parked_claim_that_is_dropped_and_was_not_granted_leaves_nothing(away: AwayRegistry) -> None:
    rival, me = away.joins(), away.joins()
    rival.claims("t", "m")
    writer = Writer(away.store, me.fence)
    parked = me.wants("t", "m")
    writer.add(FIRST, parked)
    writer.write(FIRST)
    away.store.away = True
    with pytest.raises(RegistryUnreachable):
        writer.write(FIRST + PARKED_MS)
    away.store.away = False
    writer.drop(parked.seq)
    writer.write(FIRST + 2 * PARKED_MS)
    assert away.states("t") == [State.CLAIMED]
    assert away.events("late_finish") == []


def test_what_an_earlier_recorder_had_parked_is_news_even_as_the_first_attempt(away: AwayRegistry) -> None:
    """A parent takes a claim for granted as attempt 1 unless it hears otherwise, but not one it parked."""
    me = away.joins()
    writer = Writer(away.store, me.fence)
    parked, fresh = me.wants("t", "m", redelivered=True), me.wants("u", "n")
    writer.add(FIRST, parked, again=True)
    writer.add(FIRST, fresh)
    first, other = writer.write(FIRST).answers
    assert (first.kind, first.number, bool(first.reason)) == ("granted", 1, True)
    assert (other.kind, other.number, other.reason) == ("granted", 1, "")


def test_what_was_granted_unheard_and_then_waits_for_the_registry_is_a_couriers(
    away: AwayRegistry,
) -> None:
    """Of a redelivered message: the reply was lost, so by the journal's rules it is parked, then dropped."""
    me = away.joins()
    writer = Writer(away.store, me.fence)
    claim = me.wants("t", "m", redelivered=True)
    writer.add(FIRST, claim)
    away.store.loses_reply = True
    with pytest.raises(RegistryUnreachable):
        writer.write(FIRST)
    away.store.loses_reply = False
    assert kinds(writer.journal(FIRST, lambda records: None).answers) == [(claim.seq, "parked")]
    writer.drop(claim.seq)
    writer.write(FIRST + PARKED_MS)
    assert away.states("t") == [State.LOST]


def test_what_a_writer_before_was_granted_unheard_and_the_journal_parks_is_a_couriers(
    away: AwayRegistry,
) -> None:
    """As above, but the writer before died with its answer: the next one is told of it as of a new claim."""
    me = away.joins()
    claim = me.wants("t", "m", redelivered=True)
    before = Writer(away.store, me.fence)
    before.add(FIRST, claim)
    before.write(FIRST)
    assert away.states("t") == [State.CLAIMED]
    writer = Writer(away.store, me.fence)
    writer.add(FIRST, claim)
    assert kinds(writer.journal(FIRST, lambda records: None).answers) == [(claim.seq, "parked")]
    writer.drop(claim.seq)
    writer.write(FIRST + PARKED_MS)
    assert away.states("t") == [State.LOST]


def test_a_claim_that_the_journal_parked_and_nobody_was_granted_leaves_nothing(away: AwayRegistry) -> None:
    me = away.joins()
    writer = Writer(away.store, me.fence)
    claim = me.wants("t", "m", redelivered=True)
    writer.add(FIRST, claim)
    writer.journal(FIRST, lambda records: None)
    writer.drop(claim.seq)
    writer.write(FIRST + PARKED_MS)
    assert away.states("t") == []
    assert away.events("late_finish") == []
