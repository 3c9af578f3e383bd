"""Whatever the shape of a canvas, and whichever member was lost: it completes once, as it would have."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord, group

from tests.acceptance.asking import in_broker
from tests.acceptance.canvas_app import NAME, draw_on
from tests.acceptance.conftest import broker_urls
from tests.acceptance.watching import nothing_left_in_the_broker
from tests.fleet import Fleet, wait_for

#: Members of all the shapes that wait at once.
WAITING = 17 + 2 * 7
ACCEPT = "json,pickle,yaml,msgpack"


@pytest.fixture(params=["redis", "rabbitmq"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    """Results go to Redis, whatever the broker."""
    urls = {"backend": broker_urls("redis", request)["backend"], **broker_urls(request.param, request)}
    made = Fleet(tmp_path, **urls)
    made.module = "tests.acceptance.canvas_app"
    made.environment |= {"FLEET_ACCEPT": ACCEPT, "C_FORCE_ROOT": "1", "FLEET_PREFETCH": "8"}
    made.app.conf.accept_content = ACCEPT.split(",")
    draw_on(made.app, tmp_path)
    yield made
    gc.collect()  # results that nobody asked for still hold on to the backend, which is gone afterwards
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


def test_every_shape_completes_once_with_the_result_it_would_have_had(fleet: Fleet) -> None:
    late = Drawn(fleet, "late")
    canvases = shapes(late) | messages(late) | messages(Drawn(fleet, "resent"))
    given = "-c", str(WAITING), "-Q", "celery,work,bills"
    built_in = {"FLEET_CONF": json.dumps({"task_acks_late": True})}  # Celery's own: map, starmap, chunks
    first = fleet.worker("first", *given, **built_in)
    sent = {name: canvas.apply_async() for name, (canvas, _) in canvases.items()}
    wait_for("every shape waits", lambda: len(running(fleet)) == fleet.open_attempts() == WAITING, 40)
    lost = running(fleet)
    assert not any(result.ready() for result in sent.values())
    fleet.worker("second", *given, **built_in)
    first.kill()
    again = {(id, number + 1) for id, number in lost}
    wait_for("all run again", lambda: running(fleet) == again, 40)
    (fleet.folder / "open").touch()
    assert {name: result.get(timeout=20) for name, result in sent.items()} == {
        name: result for name, (_, result) in canvases.items()
    }
    wait_for("nothing open", lambda: fleet.open_attempts() == 0)
    assert remembered(fleet) == {"2": 2}
    assert fleet.run_twice() == []
    nothing_left_in_the_broker(fleet)
    assert in_broker(fleet, "work") == in_broker(fleet, "bills") == 0
    assert fleet.errors() == []
