"""What publishers and hosts may write into a message, and a registry must bear."""

from __future__ import annotations

import pytest

from crisper.core.model import Message
from crisper.core.states import OnLost, RecoveryState, State, VerdictKind
from crisper.core.text import KEY_BYTES, key, storable
from tests.store.acting import KEPT, Registry, start

HOSTILE = {
    "nul": "a\0b",
    "only nul": "\0",
    "surrogate": "a\ud800b",
    "escaped": "a\\u0000b",
    "300 characters": "x" * 300,
    "3,000 characters": "ab" * 1500,
    "wide": "Ω漢🎈" * 400,
    "quotes": "'; DROP TABLE crisper_attempt; --",
    "placeholders": "? %s %% {} :name",
    "empty": "",
    "lines": "a\r\nb\tc",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_any_text_may_stand_anywhere_in_a_claim(registry: Registry, text: str) -> None:
    me, other = registry.joins(), registry.joins()
    wanted = me.wants(
        text,
        text,
        name=text,
        queue=text,
        tag=text,
        args_preview=text,
        kwargs_preview=text,
        message=Message(b"\0\xff", '{"headers": {}}', 2),
    )
    assert me.asks(wanted)[1:4] == ("granted", 1, "")
    assert me.asks(wanted)[1:4] == ("granted", 1, "")
    me.record(start(wanted))
    assert other.asks(other.wants(text, text, redelivered=True)).kind == "parked"
    assert me.finishes(wanted, reason=text).kind == "closed"
    [attempt] = registry.attempts(text)
    assert (attempt.state, attempt.name, attempt.reason) == (State.SUCCEEDED, storable(text), storable(text))
    assert other.asks(other.wants(text, text, redelivered=True)).kind == "refused"


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_any_text_goes_the_whole_way_of_a_recovery(registry: Registry, text: str) -> None:
    me = registry.joins(hostname=text)
    me.runs(text, text)
    me.is_lost()
    decided = registry.decided(text, VerdictKind.QUARANTINE)
    assert decided.state is RecoveryState.QUARANTINED
    recovery = registry.store.recover(text, by=text, reason=text)
    assert (recovery.reason, recovery.decided_by) == (storable(text), storable(text))
    assert registry.store.complete(recovery, by=text, data={text: text})
    assert registry.store.case(text, 1) is not None
    registry.store.note(text, text, 1, text, {text: [text]})
    assert registry.events(storable(text), text)[0].data == {text: [text]}


def test_one_hostile_value_does_not_fail_its_batch(registry: Registry) -> None:
    me = registry.joins()
    answers = me.record(
        me.wants("good"),
        me.wants("bad\0id", tag="\ud800"),
        me.wants("huge", retries=2**70, loss_budget=10**15),
        me.wants("fine"),
        me.notes("odd\0kind", "\0"),
    )
    assert [a.kind for a in answers] == ["granted"] * 4


def test_different_hostile_ids_are_different_tasks(registry: Registry) -> None:
    me = registry.joins()
    ids = ["a\0", "a\\u0000", "x" * 5000, "x" * 5001, "\ud800", "\\ud800", "a"]
    assert [a.number for a in me.record(*(me.wants(id, id) for id in ids))] == [1] * len(ids)
    assert len({key(id) for id in ids}) == len(ids)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_key_is_stable_short_and_storable(text: str) -> None:
    assert key(key(text)) == key(text)
    assert len(key(text).encode()) <= KEY_BYTES
    assert "\0" not in key(text)


def test_ordinary_ids_are_kept_as_they_are() -> None:
    for id in ("9f1c4a1e-0b1a-4a6e-9d7a-1f2e3d4c5b6a", "x" * 300, "émile"):
        assert key(id) == id


def test_an_envelope_with_odd_characters_means_the_same_when_it_is_read_back(registry: Registry) -> None:
    import json

    headers = {"headers": {"name": "\ud800 \0 Ω"}}
    me = registry.joins()
    me.runs(message=Message(b"x", json.dumps(headers, ensure_ascii=False), 1))
    me.is_lost()
    [case] = registry.take()
    assert json.loads(case.message.envelope) == headers


@pytest.mark.parametrize("size", [0, 1, 5 * 2**20], ids=["empty", "one byte", "5 MiB"])
def test_a_body_of_any_size_is_kept_exactly(registry: Registry, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    me = registry.joins()
    me.runs(message=Message(body, "{}", size))
    me.is_lost()
    registry.nobody_decides()
    [case] = registry.take()
    assert case.message.body == body
    me = registry.joins()
    assert me.asks(me.wants(redelivered=True, message=Message(body, "{}", size))).kind == "granted"


def test_facts_that_json_cannot_say_are_told_by_their_repr(registry: Registry) -> None:
    me = registry.joins(about={"path": {1, 2}})
    me.runs(on_lost=OnLost.HOLD, message=KEPT)
    assert registry.store.declare_lost(me.id, 0, by="x", evidence={"error": ValueError("no"), "raw": b"\0"})
    assert registry.worker(me.id).evidence["error"] == "ValueError('no')"
