"""What the dashboard asks beyond the survey, answered from every registry alike, and on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from crisper.core.states import State, VerdictKind
from crisper.engine.deaths import became
from crisper.engine.failures import failures
from crisper.engine.lanes import lanes
from crisper.engine.queues import queues
from crisper.engine.reading import Reading
from crisper.engine.trail import Wanted, whole
from crisper.engine.usual import FEWEST, present, usual
from tests.faces.conftest import Run, read
from tests.faces.scene import HOSTILE, Scene, new_id
from tests.store.acting import KEPT, Actor, SqlRegistry

HOUR_MS = 3_600_000


@pytest.fixture
def reading(read_scene: Scene) -> Iterator[Reading]:
    with closing(Reading(read_scene.url, application_name="test")) as reading:
        yield reading


def test_failures_are_grouped_by_name_state_and_reason(reading: Reading, read_scene: Scene) -> None:
    answer = failures(reading)
    assert (answer["complete"], answer["more"], answer["looked_at"]) == (True, False, 10)
    found = {(one["name"], one["state"], one["why"]): one for one in answer["groups"]}
    held = found["shop.held", "lost", "the reason of held"]
    assert (held["attempts"], held["verdict"]) == (1, "hold")
    assert held["example"]["task_id"] == read_scene.ids["held"]
    assert {one["state"] for one in answer["groups"]} == {"failed", "rejected", "lost"}


def test_a_hundred_alike_are_one_group_whatever_their_words(empty_url: str, run: Run) -> None:
    from crisper.store.open import open_store

    with (
        closing(open_store(empty_url)) as store,
        closing(Reading(empty_url, application_name="test")) as reading,
    ):
        worker = Actor(store, hostname="celery@one")
        for n in range(6):
            claim = worker.runs(new_id(), f"m{n}", name="shop.pay")
            worker.finishes(claim, State.FAILED, reason=f"ConnectionError: no answer from host {n}")
        claim = worker.runs("one", "m", name="shop.pay")
        worker.finishes(claim, State.FAILED, reason="KeyError")
        groups = [(one["why"], one["attempts"]) for one in failures(reading)["groups"]]
        assert groups == [("ConnectionError", 6), ("KeyError", 1)]
        one = failures(reading, limit=1)
        assert (len(one["groups"]), one["more"], one["looked_at"]) == (1, True, 7)
    shown = run(empty_url, "failures", "--limit", "1")
    assert "ConnectionError" in shown.stdout
    assert "only the largest 1 groups are shown" in shown.stderr


def test_usual_times_are_ranks_and_of_few_nothing_is_known(empty_url: str) -> None:
    from crisper.store.open import open_store

    with (
        closing(open_store(empty_url)) as store,
        closing(Reading(empty_url, application_name="test")) as reading,
    ):
        worker = Actor(store, hostname="celery@one")
        for n in range(1, 21):
            claim = worker.runs(new_id(), f"m{n}", name="shop.pay")
            worker.finishes(claim, runtime_ms=n * 1000 if n < 20 else 86_400_000)
        for n in range(FEWEST - 1):
            worker.finishes(worker.runs(new_id(), f"f{n}", name="shop.rare"), runtime_ms=5)
        known = usual(reading)
        assert known == {"shop.pay": (10.0, 19.0, 20)}
        worker.runs("young", "young", name="shop.pay")
        worker.runs("old", "old", name="shop.pay")
        worker.runs("unknown", "unknown", name="shop.rare")
        with store.db.write():
            for id, ms in (("old", 20_000), ("unknown", 90_000)):
                store.db.run(
                    "UPDATE crisper_attempt SET started_at = started_at - ? WHERE task_id = ?", ms, id
                )
        rows = [(one["task_id"], one["late"]) for one in present(reading, known)]
        assert rows == [("unknown", None), ("old", True), ("young", False)]


def test_queues_are_known_by_their_workers_and_by_what_is_open(reading: Reading) -> None:
    found = {one["name"]: one for one in queues(reading)}
    assert (found["mail"]["workers"], found["mail"]["running"]) == (1, 1)
    assert found["celery"]["claimed"] == 1


def test_a_queue_whose_last_worker_ended_within_a_day_is_known(empty_url: str, run: Run) -> None:
    from crisper.store.open import open_store

    with (
        closing(open_store(empty_url)) as store,
        closing(Reading(empty_url, application_name="test")) as reading,
    ):
        Actor(store, about={"queues": ["of the dead"]}).is_lost()
        gone = Actor(store, about={"queues": ["of the gone"]})
        assert store.say_goodbye(gone.fence, reason="warm shutdown")
        old = Actor(store, about={"queues": ["of the old"]})
        old.is_lost()
        with store.db.write():
            store.db.run("UPDATE crisper_incarnation SET ended_at = ended_at - 90000000 WHERE id = ?", old.id)
        assert [(one["name"], one["workers"]) for one in queues(reading)] == [
            ("of the dead", 0),
            ("of the gone", 0),
        ]


def test_a_queue_is_known_by_what_is_brought_back_to_it(empty_url: str, run: Run) -> None:
    with (
        closing(SqlRegistry(empty_url)) as registry,
        closing(Reading(empty_url, application_name="test")) as reading,
    ):
        worker = registry.joins()
        worker.runs("pending", "m1", message=KEPT, queue="other")
        worker.runs("sent", "m2", message=KEPT, queue="other")
        worker.runs("failed", "m3", message=KEPT, queue="over")
        worker.is_lost()
        for case in registry.take():
            if case.recovery.task_id != "pending":
                verdict = {"sent": VerdictKind.HAND_BACK, "failed": VerdictKind.FAIL}[case.recovery.task_id]
                decided = registry.store.decide(case.recovery, verdict, "so", {}, by="courier")
                assert decided is not None
                assert registry.store.complete(decided, by="courier", data={})
        assert [(one["name"], one["recovering"]) for one in queues(reading)] == [("other", 2)]
    shown = run(empty_url, "queues")
    assert "2 tasks recovering in other, and no live worker says that it consumes" in shown.stdout


def test_queues_that_are_in_use_come_before_those_of_the_dead(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crisper.engine.queues.MOST", 2)
    with (
        closing(SqlRegistry(empty_url)) as registry,
        closing(Reading(empty_url, application_name="test")) as reading,
    ):
        registry.joins(about={"queues": ["a", "b", "c"]}).is_lost()
        registry.joins(about={"queues": ["z"]})
        assert [one["name"] for one in queues(reading)] == ["a", "z"]


def test_a_lane_has_lives_deaths_and_what_was_brought_back(reading: Reading) -> None:
    answer = lanes(reading, since_ms=HOUR_MS)
    assert [lane["hostname"] for lane in answer["lanes"]] == ["celery@two", "celery@one", "celery@three"]
    [two, one, three] = [lane["lives"][0] for lane in answer["lanes"]]
    assert (two["state"], one["state"], three["state"]) == ("lost", "alive", "gone")
    assert [back["tasks"] for back in two["recovered"]] == [1]
    assert one["recovered"] == []


def test_of_a_death_it_is_known_what_became_of_all_that_it_held(reading: Reading, read_scene: Scene) -> None:
    told = became(reading, [read_scene.two.id])[read_scene.two.id]
    assert told == {
        "quarantined": 1,
        "held": 2,
        "recovering": 1,
        "failed": 1,
        "settled": 1,
        "discarded": 1,
        "succeeded": 1,
    }
    assert became(reading, [read_scene.one.id]) == {}


def test_the_trail_is_read_by_who_decided(reading: Reading, read_scene: Scene, run: Run) -> None:
    pages = list(whole(reading, Wanted(kinds=("verdict",), by="ann@*")))
    [[event]] = pages
    assert (event["task_id"], event["data"]["verdict"]) == (read_scene.ids["discarded"], "discard")
    answer = read(run(read_scene.url, "events", "--by", "ann@*", "--json"))
    assert [one["id"] for one in answer["events"]] == [event["id"]]
    assert list(whole(reading, Wanted(by="nobody"))) == [[]]


def test_empty_registries_explain(run: Run, empty_url: str) -> None:
    assert "Nothing failed" in run(empty_url, "failures").stdout
    assert "No queue is known" in run(empty_url, "queues").stdout
    assert read(run(empty_url, "queues", "--json")) == {"broker": None, "trouble": None, "queues": []}


def test_hostile_names_and_reasons_are_only_words(run: Run, scene: Scene) -> None:
    for n, text in enumerate(HOSTILE):
        claim = scene.one.runs(f"h{n}", f"h{n}", name=text[:9000], queue=text[:9000])
        scene.one.finishes(claim, State.FAILED, reason=text[:9000])
    for command in ("failures", "queues"):
        shown = run(scene.url, command)
        assert shown.exit_code == 0, shown.output
        assert "\x1b" not in shown.stdout
        assert "\u202e" not in shown.stdout
