"""What the sentences are made of."""

from __future__ import annotations

import pytest

from crisper.engine.doctor.words import named, round_up, size, span, tasks


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0.0, "0 s"), (7.4, "7.4 s"), (119.0, "119 s"), (120.0, "2 min"), (5400.0, "90 min")),
        *((7200.0, "2 h"), (172_799.0, "48 h"), (172_800.0, "2 days"), (2.3e9, "26,620 days")),
    ],
)
def test_a_span_is_short_and_has_no_exponent(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_of_many_names_the_first_are_given_and_the_rest_counted() -> None:
    assert named(["a", "b", "c"]) == "a, b, c"
    assert named("abcdef") == "a, b, c and 3 more"
    assert tasks({"a": (1.0, "took"), "b": (60.0, "may take")}) == "b may take 60 s, a took 1 s"


def test_what_is_to_be_set_has_room_to_spare() -> None:
    assert [round_up(seconds) for seconds in (10, 40, 41, 600, 3600, 86_400)] == [
        60,
        60,
        300,
        900,
        7200,
        129_600,
    ]
    assert (size(12), size(2**20), size(3 * 2**29)) == ("12 bytes", "1 MiB", "1.5 GiB")
