"""Whatever the shape of a canvas, and whichever member was lost: it completes once, as it would have."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from celery import chain, chord, group
from celery._state import _set_current_app

from tests.acceptance.asking import in_broker
from tests.acceptance.canvas_app import NAME, draw_on, let_go_of_results
from tests.acceptance.conftest import broker_urls
from tests.acceptance.watching import is_recorded, nothing_left_in_the_broker
from tests.celery.conftest import module_urls
from tests.celery.test_features import IS_57
from tests.fleet import Fleet, wait_for

#: Members of all the shapes that wait at once.
WAITING = 17 + 2 * 7
#: Threads for the members that do not wait: the last of them may come when all others are taken.
SPARE = 2
#: The names of `shapes_that_fail`.
BROKEN = (
    "a chain's middle", "a chord of chains", "a chord's body", "a chord in a chord", "behind a chord",
    "what replaces a member", "what replaces a chord's member",
)  # fmt: skip
ACCEPT = "json,pickle,yaml,msgpack"


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Results go to Redis, whatever the broker."""
    urls = {"backend": broker_urls("redis", request)["backend"], **module_urls(request.param, request)}
    folder = tmp_path_factory.mktemp(request.param)
    made = Fleet(folder, **urls)
    made.module = "tests.acceptance.canvas_app"
    made.environment |= {"FLEET_ACCEPT": ACCEPT, "C_FORCE_ROOT": "1", "FLEET_PREFETCH": "8"}
    made.app.conf.accept_content = ACCEPT.split(",")
    draw_on(made.app, folder)
    made.app.set_current()  # Celery 5.5 asks for the app of a canvas in a canvas
    yield made
    _set_current_app(None)
    let_go_of_results(made.app)
    made.close()


class Drawn:
    """The tasks of one way to acknowledge, as signatures of the fleet's app."""

    def __init__(self, fleet: Fleet, way: str) -> None:
        self.app, self.way = fleet.app, way
        self.remember = fleet.app.tasks["tests.fleet_app.remember"].s()

    def __getattr__(self, name: str) -> Any:
        return self.app.tasks[f"{NAME}{self.way}_{name}"].s


def running(fleet: Fleet) -> set[tuple[str, int]]:
    rows = fleet.rows("SELECT task_id, number FROM crisper_attempt WHERE state = 'running'")
    return {(str(id), int(number)) for id, number in rows}


def begun_to_wait(fleet: Fleet) -> int:
    waiting = fleet.folder / "waiting"
    return waiting.stat().st_size if waiting.exists() else 0


def remembered(fleet: Fleet) -> Counter[str]:
    return Counter(line.key for line in fleet.ends() if line.name == "remember")


def shapes(late: Drawn) -> dict[str, tuple[Any, Any]]:
    """Each with one or more members that wait, and the result that it is to have."""
    waits, add_up, swap = late.waits, late.add_up, late.swap
    now = ""
    one_by_one = late.app.tasks[f"{NAME}late_waits"].chunks([(1, "open"), (2, now)], 1)
    return {
        "a chain's middle": (chain(waits(1, now), waits(), waits(now)), 1),
        "a chain's end": (chain(waits(2, now), waits()), 2),
        "a group in a group": (group(group(waits(1), waits(2, now)), waits(3, now)), [1, 2, 3]),
        "a chord of chains": (
            chord([chain(waits(1, now), waits()), chain(waits(2), waits(now))], add_up()),
            3,
        ),
        "a chord's body": (chord([waits(1, now), waits(2, now)], add_up("open")), 3),
        "a chord in a chord": (
            chord([chord([waits(1), waits(2, now)], add_up()), waits(3, now)], add_up()),
            6,
        ),
        "behind a chord": (chain(chord([waits(1), waits(2, now)], add_up()), waits()), 3),
        "a group in a chain": (chain(waits(1), group(waits(now), waits()), add_up()), 2),
        "a member replaced": (chain(swap(4, now), waits()), 4),
        "what replaces a member": (chain(swap(5), waits(now)), 5),
        "what replaces a chord's member": (chord([swap(6), waits(1, now)], add_up()), 7),
        "a chord that replaces a chord's member": (
            chord([late.swap_for_a_chord([1, 2]), waits(3, now)], add_up()),
            6,
        ),
        "a map": (late.app.tasks[f"{NAME}late_waits"].map([1, 2]), [1, 2]),
        "a starmap": (late.app.tasks[f"{NAME}late_waits"].starmap([(1, "open"), (2, now)]), [1, 2]),
        "chunks": (one_by_one.group(), [[1], [2]]),
    }


def messages(drawn: Drawn) -> dict[str, tuple[Any, Any]]:
    """Lost ones that are to come back as they were published."""
    way, waits = drawn.way, drawn.waits
    told = drawn.delivered("open").set(
        priority=6, compression="gzip", time_limit=600, headers={"tenant": "acme"}
    )
    told.stamp(stamped_headers=["customer"], customer="acme")
    heard = {"stamps": {"customer": "acme"}, "priority": 6, "tenant": "acme", "timelimit": [600, None]}
    job = {"queue": "work", "exchange": "jobs", "routing_key": "job.night.7"}
    drawn_once = {
        "stamped, urgent and compressed": (told, heard),
        "through a topic": (waits(1).set(**job), 1),
        "links": (chain(waits(2)).set(link=drawn.remember), 2),
    }
    for serializer in ("json", "pickle", "yaml", "msgpack"):
        packed = waits([3, "é"]).set(serializer=serializer, compression="gzip")
        drawn_once[serializer] = (packed, [3, "é"])
    return {f"{way}: {name}": case for name, case in drawn_once.items()}


def shapes_that_fail(early: Drawn) -> dict[str, Any]:
    """Each with one member that waits and is acknowledged already."""
    waits, add_up, swap = early.waits, early.add_up, early.swap
    now = ""
    return {
        "a chain's middle": chain(waits(1, now), waits(), waits(now)),
        "a chord of chains": chord([chain(waits(1), waits(now)), chain(waits(2, now), waits(now))], add_up()),
        "a chord's body": chord([waits(1, now), waits(2, now)], add_up("open")),
        "a chord in a chord": chord([chord([waits(1), waits(2, now)], add_up()), waits(3, now)], add_up()),
        "behind a chord": chain(chord([waits(1), waits(2, now)], add_up()), waits(now)),
        "what replaces a member": chain(swap(5, "open", "early"), waits(now)),
        "what replaces a chord's member": chord([swap(6, "open", "early"), waits(1, now)], add_up()),
    }


class Scene(NamedTuple):
    """One worker was killed in the middle of them all, and another has come."""

    whole: dict[str, tuple[Any, Any]]  # each result, and what it should be
    broken: dict[str, Any]


@pytest.fixture(scope="module")
def scene(fleet: Fleet) -> Scene:
    late, early = Drawn(fleet, "late"), Drawn(fleet, "early")
    whole = shapes(late) | messages(late) | messages(Drawn(fleet, "resent"))
    broken = shapes_that_fail(early)
    given = "-P", "threads", "-Q", "celery,work,bills"  # so many processes would take long to start
    built_in = {"FLEET_CONF": json.dumps({"task_acks_late": True})}  # Celery's own: map, starmap, chunks
    waiting = WAITING + len(broken)
    first = fleet.worker("first", "-c", str(waiting + SPARE), *given, **built_in)
    # Celery 5.5 takes no errback for a chord as a whole
    errback = {"link_error": early.remember} if IS_57 else {}
    sent = Scene(
        {name: (canvas.apply_async(), result) for name, (canvas, result) in whole.items()},
        {name: canvas.apply_async(**errback) for name, canvas in broken.items()},
    )
    wait_for("a registry", lambda: is_recorded(fleet))
    wait_for("every body waits", lambda: begun_to_wait(fleet) == waiting, 40)
    wait_for("that is on record", lambda: len(running(fleet)) == fleet.open_attempts() == waiting, 40)
    lost = running(fleet)
    assert not any(result.ready() for result, _ in sent.whole.values())
    assert not any(result.ready() for result in sent.broken.values())
    second = fleet.worker("second", "-c", str(WAITING), *given, wait=False, **built_in)
    first.kill()
    second.ready()
    again = {(id, number + 1) for id, number in lost}
    wait_for("all that may run again do", lambda: len(running(fleet) & again) == WAITING, 40)
    (fleet.folder / "open").touch()
    return sent


def test_every_shape_completes_with_the_result_it_would_have_had(scene: Scene) -> None:
    assert {name: result.get(timeout=20) for name, (result, _) in scene.whole.items()} == {
        name: expected for name, (_, expected) in scene.whole.items()
    }


@pytest.mark.parametrize("name", BROKEN)
def test_nobody_waits_for_ever_where_a_member_was_acknowledged_early(scene: Scene, name: str) -> None:
    """By policy: nobody said that it may run twice. Each ends as if that member had raised."""
    result = scene.broken[name]
    with pytest.raises(Exception, match="was lost and is not run again"):
        result.get(timeout=20)
    if IS_57 and name != "a chord in a chord":  # what Celery leaves to those who ask for the result
        assert result.state == "FAILURE"


def test_every_shape_completes_once(fleet: Fleet, scene: Scene) -> None:
    for result, _ in scene.whole.values():
        result.get(timeout=20)
    wait_for("nothing open", lambda: fleet.open_attempts() == 0)
    nothing_left_in_the_broker(fleet)
    assert in_broker(fleet, "work") == in_broker(fleet, "bills") == 0
    links = remembered(fleet)
    assert links.pop("2") == 2
    errbacks = len(BROKEN) - 1 if IS_57 else 0  # Celery calls none for a chord in a chord
    assert list(links.values()) == [1] * errbacks
    assert fleet.run_twice() == []
    assert fleet.errors() == []
