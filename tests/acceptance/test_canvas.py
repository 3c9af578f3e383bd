"""A canvas completes as if nothing had happened when a member was lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord, group

from tests.acceptance.conftest import broker_urls
from tests.fleet import Fleet, wait_for


@pytest.fixture
def fleet(broker_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    """Results go to Redis, whatever the broker: files have no chords of their own."""
    urls = {"backend": broker_urls("redis", request)["backend"], **broker_urls(broker_name, request)}
    made = Fleet(tmp_path, **urls)
    yield made
    made.close()


def test_a_canvas_completes_with_the_result_it_would_have_had(fleet: Fleet) -> None:
    accepting = {"FLEET_ACCEPT": "json,pickle,yaml", "C_FORCE_ROOT": "1"}
    first = fleet.worker("first", "-c", "4", **accepting)
    late, total, remember, boom = _tasks(fleet, "late", "total", "remember", "boom")
    chained = chain(late.s(5, "open"), late.s(0)).apply_async()
    grouped = group(
        late.s(1, "open").set(serializer="pickle"), late.s(2, "open").set(serializer="yaml", priority=9)
    ).apply_async()
    summed = chord([late.s(3, "open").set(compression="gzip"), late.s(4, "open")], total.s()).apply_async()
    linked = late.apply_async((6, "open"), link=remember.s(), link_error=remember.s())
    failed = boom.apply_async((7, "open"), link=remember.s(), link_error=remember.s())
    wait_for("four running", lambda: len(fleet.starts()) == 4)
    lost = {line.task_id for line in fleet.starts()}
    wait_for("all claimed", lambda: fleet.open_attempts() == 7)
    fleet.worker("second", "-c", "7", **accepting)
    first.kill()
    wait_for("all running again", lambda: len(fleet.starts()) == 4 + 7)
    (fleet.folder / "open").touch()

    assert chained.get(timeout=20) == 5
    assert grouped.get(timeout=20) == [1, 2]
    assert summed.get(timeout=20) == 7
    assert linked.get(timeout=20) == 6
    with pytest.raises(ValueError, match="boom 7"):
        failed.get(timeout=20)
    wait_for("link and errback", lambda: len(_remembered(fleet)) == 2)
    assert _remembered(fleet) == {"6": 1, failed.id: 1}
    wait_for("no attempt left open", lambda: fleet.open_attempts() == 0)
    assert len(lost) == 4
    assert all(fleet.attempts(id)[0] == (1, "lost") for id in lost)
    assert fleet.run_twice() == []
    assert fleet.errors() == []


def test_a_canvas_of_early_acked_tasks_fails_at_once_where_one_is_lost(fleet: Fleet) -> None:
    """By policy: nobody said that they may run twice. Nobody waits for ever either."""
    first = fleet.worker("first", "-c", "6")
    early, total, remember = (
        fleet.app.tasks[f"tests.fleet_app.{name}"] for name in ("early", "total", "remember")
    )
    plain = early.apply_async((1, "open"), link_error=remember.s())
    chained = chain(early.s(2, "open"), early.s(0)).apply_async(link_error=remember.s())
    grouped = group(early.s(3, "open"), early.s(4, 0)).apply_async()
    summed = chord([early.s(5, "open"), early.s(6, 0)], total.s().on_error(remember.s())).apply_async()
    wait_for("all running or done", lambda: len(fleet.starts()) == 6)
    wait_for("on record as running", lambda: len(_running(fleet)) == 4)
    wait_for("two are done", lambda: fleet.open_attempts() == 4)
    fleet.worker("second")
    first.kill()

    for result in (plain, chained, grouped):
        with pytest.raises(Exception, match="was lost and is not run again") as raised:
            result.get(timeout=10)
        assert type(raised.value).__name__ == "TaskLost"
    with pytest.raises(Exception, match="was lost and is not run again"):
        summed.get(timeout=10)
    wait_for("the chord's body has its error", lambda: summed.state == "FAILURE")
    assert type(summed.result).__name__ == "ChordError"
    wait_for("every errback", lambda: len(_remembered(fleet)) == 3)
    wait_for("no attempt left open", lambda: fleet.open_attempts() == 0)
    assert set(_remembered(fleet).values()) == {1}
    assert plain.id in _remembered(fleet)
    assert len(fleet.starts()) == 6 + 3
    assert fleet.errors() == []


@pytest.mark.parametrize(
    ("broker_name", "step"),
    [
        ("redis", "result_stored"),
        ("rabbitmq", "result_stored"),
        pytest.param("redis", "chord_claimed", marks=pytest.mark.slow),
        pytest.param("rabbitmq", "chord_claimed", marks=pytest.mark.slow),
    ],
)
def test_a_chord_completes_though_its_last_member_died_after_its_result_was_stored(
    fleet: Fleet, step: str
) -> None:
    """Celery counts a member in its chord after it has stored its result: the member must not run again,
    and must be counted. Its killed process may have claimed to send the chord's body, for 21 s."""
    if step == "chord_claimed" and not hasattr(fleet.app.amqp, "_retry_publish"):
        pytest.skip("this Celery has no such claim")
    first = fleet.worker("first", "--include", "tests.fleet_crash")
    late, total = _tasks(fleet, "late", "total")
    summed = chord([late.s(3, 0), late.s(4, "open")], total.s()).apply_async()
    earlier, last = (member.id for member in summed.parent.results)
    wait_for("one is done, one runs", lambda: fleet.ends(earlier) and fleet.starts(last))
    wait_for("it is counted", lambda: fleet.attempts(earlier) == [(1, "succeeded")])
    (fleet.folder / f"crash-at-{step}").write_text("alone")
    (fleet.folder / "open").touch()
    assert first.process.wait(20) == -9
    fleet.worker("second")
    assert summed.get(timeout=35) == 7
    wait_for("no attempt left open", lambda: fleet.open_attempts() == 0)
    wait_for("settled", lambda: fleet.recoveries(last) == [(1, "done", "settled")])
    assert len(fleet.starts(last)) == 1
    assert [line.name for line in fleet.ends(summed.id)] == ["total"]
    assert fleet.errors() == []


def _tasks(fleet: Fleet, *names: str) -> list[Any]:
    return [fleet.app.tasks[f"tests.fleet_app.{name}"] for name in names]


def _remembered(fleet: Fleet) -> Counter[str]:
    return Counter(line.key for line in fleet.ends() if line.name == "remember")


def _running(fleet: Fleet) -> list[tuple[object, ...]]:
    return fleet.rows("SELECT task_id FROM crisper_attempt WHERE state = 'running'")
