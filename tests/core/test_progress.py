"""What counts as progress, in whatever words an application says it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from crisper.core.model import Progress
from crisper.core.progress import NOTE_MOST, progress, progress_of_state, so_far


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ((3, 7, "reads"), Progress(3, 7, "reads")),
        ((3,), Progress(3)),
        ((0.5, 1.0), Progress(0.5, 1.0)),
        ((Decimal("2.5"), Decimal(10)), Progress(2.5, 10.0)),
        ((True, 2), Progress(1.0, 2)),
        ((2**70, None), Progress(float(2**70))),
        ((3, "many"), Progress(3)),
        ((3, float("inf")), Progress(3)),
        ((3, 7, "x" * 5000), Progress(3, 7, "x" * NOTE_MOST)),
        ((3, 7, object()), Progress(3, 7, "a object")),
        ((float("nan"),), None),
        ((None,), None),
        (("half",), None),
        ((10**400,), None),
    ],
)
def test_what_is_said_is_taken_as_plain_numbers_and_a_short_note(
    said: tuple[Any, ...], taken: Progress | None
) -> None:
    assert progress(*said) == taken


@pytest.mark.parametrize(
    ("state", "meta", "taken"),
    [
        ("PROGRESS", {"current": 3, "total": 7}, Progress(3, 7)),
        ("PROGRESS", {"done": 3, "total": 7, "status": "reads"}, Progress(3, 7, "reads")),
        ("PROGRESS", {"percent": 42.5, "description": "reads"}, Progress(42.5, 100, "reads")),
        ("READING", {"current": 3}, Progress(3, None, "READING")),
        ("PROGRESS", {"file": "a.pdf"}, None),
        ("PROGRESS", None, None),
        ("PROGRESS", ["3 of 7"], None),
    ],
)
def test_celerys_own_states_count_in_the_words_that_people_use(
    state: str, meta: Any, taken: Progress | None
) -> None:
    assert progress_of_state(state, meta) == taken


@pytest.mark.parametrize(
    ("done", "total", "shown"),
    [(41, 100, "41 of 100"), (7, None, "7"), (0.5, 1.0, "0.5 of 1"), (7, 0, "7 of 0"), ("<b>", [], "")],
)
def test_it_is_shown_short(done: Any, total: Any, shown: str) -> None:
    assert so_far(done, total) == shown
