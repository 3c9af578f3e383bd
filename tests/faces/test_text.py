"""What comes from outside, on a terminal."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime

import pytest

from crisper.faces.cli.story import death
from crisper.faces.cli.text import age, clean, seconds, short_ids
from tests.faces.scene import HOSTILE

ONE = "0d9c3f5e-1111-4111-8111-111111111111"
TWIN = "0d9c3f5e-1111-4111-8111-111111111112"
OTHER = "77777777-1111-4111-8111-111111111111"


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_moves_colours_or_floods_a_terminal(text: str) -> None:
    shown = clean(text)
    assert len(shown) <= 1300
    assert not any(unicodedata.category(char) in ("Cc", "Cf", "Cs") for char in shown)


def test_what_was_hidden_is_named() -> None:
    assert clean("a\x1b[31m\u202eb\r\n") == r"a\x1b[31m\u202eb\r\n"


@pytest.mark.parametrize("text", ["shop.tasks.charge", "Grüße 日本", "a  b"])
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


def test_ids_are_cut_to_what_tells_them_apart() -> None:
    assert short_ids([ONE, OTHER]) == {ONE: "0d9c3f5e", OTHER: "77777777"}
    assert short_ids([ONE, TWIN]) == {ONE: ONE, TWIN: TWIN}


def test_an_id_that_is_no_uuid_stays_whole() -> None:
    assert short_ids(["order-2024-000001"]) == {"order-2024-000001": "order-2024-000001"}


@pytest.mark.parametrize(
    ("since", "shown"),
    [
        ("2025-03-09T12:00:00.000Z", "0s"),
        ("2025-03-09T11:59:01.000Z", "59s"),
        ("2025-03-09T11:59:00.000Z", "1m"),
        ("2025-03-09T09:00:00.000Z", "3h"),
        ("2025-03-01T12:00:00.000Z", "8d"),
        ("2025-03-09T12:00:05.000Z", "0s"),
        (None, "-"),
    ],
)
def test_ages_are_read_at_a_glance(since: str | None, shown: str) -> None:
    assert age(since, datetime(2025, 3, 9, 12, tzinfo=UTC)) == shown


@pytest.mark.parametrize(
    ("duration", "shown"), [(0.42, "0.42 s"), (59.0, "59 s"), (200, "3 min 20 s"), (7260, "2 h 1 min")]
)
def test_durations_too(duration: float, shown: str) -> None:
    assert seconds(duration) == shown


@pytest.mark.parametrize(
    ("evidence", "sentence"),
    [
        (
            {"how": "witnessed by its recorder", "pid": 7, "pid_start": 1, "children_stopped": 2, "by": "w"},
            "its recorder saw its process 7 end (children_stopped: 2)",
        ),
        ({"how": "process gone", "pid": 7, "pid_start": 1, "by": "id"}, "its process 7 was gone"),
        (
            {"how": "silence", "counter": 9, "silent_for": 20.1, "lease": 20.0},
            "it did not renew its lease of 20.0 s, and was watched for 20.1 s",
        ),
        ({"how": "silence"}, "how: silence"),
        ({"how": "process gone", "pid": "\x1b[31m{x}"}, "its process \\x1b[31m{x} was gone"),
        ({"how": ["odd"]}, 'how: ["odd"]'),
        ("odd", "odd"),
        (None, "None"),
    ],
)
def test_a_death_is_told_in_a_sentence_where_its_facts_are_known(evidence: object, sentence: str) -> None:
    assert death(evidence) == sentence
