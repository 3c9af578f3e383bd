"""`recover --all`, `discard --all`, `stop --all`: what the filters select, and never more than that."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from crisper.core.message import Kept, pack
from crisper.core.states import State, VerdictKind
from crisper.engine import control
from crisper.engine.survey import Survey
from crisper.faces.cli import acting
from crisper.store.open import open_store
from tests.faces.conftest import Run, read
from tests.faces.scene import HOSTILE, INJECTIONS, KEPT, Scene, new_id
from tests.faces.test_cli import assert_plain, assert_refused, recovery_of
from tests.faces.test_doors import CRISPER, a_held_task, crisper, on_a_terminal, project
from tests.store.acting import SCOPE, Actor, start

__all__ = ["project"]


def held_ones(scene: Scene, count: int, name: str = "shop.many", **about: object) -> list[str]:
    """Tasks that were lost while running and are held, the oldest first."""
    actor = Actor(scene.store, hostname="celery@many")
    ids = [new_id() for _ in range(count)]
    for id in ids:
        actor.runs(id, f"message of {id}", name=name, message=KEPT, **about)
    actor.is_lost()
    for case in scene.store.take_cases(scene.one.id, SCOPE, limit=1000):
        if case.recovery.task_id in ids:
            assert scene.store.decide(case.recovery, VerdictKind.HOLD, "by policy", {}, by="celery@one")
    with scene.store.db.write():
        for at, id in enumerate(ids):
            scene.store.db.run("UPDATE crisper_attempt SET received_at = ? WHERE task_id = ?", 1000 + at, id)
    return ids


def state_of(run: Run, scene: Scene, task_id: str) -> str:
    state: str = read(run(scene.url, "show", task_id, "--json"))["state"]
    return state


@pytest.mark.parametrize(
    ("verb", "filters", "names"),
    [
        ("recover", [], ["quarantined", "held"]),  # and not what cannot be sent
        ("recover", ["--state", "quarantined"], ["quarantined"]),
        ("recover", ["--state", "failed"], ["failed by policy"]),  # and not what failed by itself
        ("recover", ["--state", "discarded", "--state", "failed"], ["discarded", "failed by policy"]),
        ("recover", ["--state", "revoked"], []),
        ("recover", ["--name", "shop.h*"], ["held"]),
        ("recover", ["--queue", "nowhere"], []),
        ("discard", [], ["not kept", "quarantined", "held"]),
        ("stop", ["--queue", "mail"], ["running"]),
        ("stop", ["--name", "*"], ["running", "claimed", "recovering"]),
        ("stop", ["--state", "retried"], ["retried"]),
        ("stop", ["--state", "held"], ["held", "not kept"]),
        ("stop", ["--worker", "celery@one"], ["running", "claimed"]),
        ("recover", ["--worker", "celery@one"], []),
        ("recover", ["--argument", '"x"'], ["quarantined", "held"]),
        ("recover", ["--argument", "EUR", "--state", "held"], ["held"]),
        ("recover", ["--argument", "no such text"], []),
        ("discard", ["--since", "1h"], ["not kept", "quarantined", "held"]),
        ("discard", ["--until", "1h"], []),
        ("discard", ["--older-than", "1h"], []),
        ("stop", ["--since", "2001-09-09", "--until", "2001-09-10"], []),
    ],
)
def test_all_means_what_the_filters_select(
    run: Run, read_scene: Scene, verb: str, filters: list[str], names: list[str]
) -> None:
    answer = read(run(read_scene.url, verb, "--all", *filters, "--dry-run", "--json"))
    assert list(answer) == ["tasks", "left"]
    assert {task["task_id"] for task in answer["tasks"]} == {read_scene.ids[name] for name in names}
    assert answer["left"] == 0
    assert all(task["outcome"] == "possible" for task in answer["tasks"])


def test_all_of_an_id_are_those_that_it_begins(run: Run, read_scene: Scene) -> None:
    id = read_scene.ids["held"]
    for asked in (id, id[:8]):
        answer = read(run(read_scene.url, "recover", "--all", "--id", asked, "--dry-run", "--json"))
        assert [task["task_id"] for task in answer["tasks"]] == [id]


def test_what_cannot_be_sent_is_counted_and_starves_nobody(run: Run, read_scene: Scene) -> None:
    result = run(read_scene.url, "recover", "--all", "--max", "2", "--dry-run")
    assert result.exit_code == 0
    assert "1 task left out: the message is not kept" in result.stderr
    assert "more match" not in result.stderr
    assert read_scene.ids["not kept"] not in result.stdout


def test_what_is_ordered_to_stop_is_not_ordered_again(run: Run, scene: Scene) -> None:
    command = ["stop", "--all", "--state", "running", "--state", "retried", "--yes", "--json"]
    assert len(read(run(scene.url, *command))["tasks"]) == 2
    assert read(run(scene.url, *command)) == {"tasks": [], "left": 0}


def test_what_somebody_else_decides_meanwhile_stays_so(scene: Scene, run: Run) -> None:
    """A question may wait for its answer for long."""
    ids, asked = held_ones(scene, 2), list[str]()

    def type_in(seen: str) -> bytes | None:
        if "[y/N]" in seen and not asked:
            asked.append(seen)
            assert scene.store.discard(ids[0], by="ann@desk", reason="no use")
            return b"y\n"
        return None

    command = [CRISPER, "recover", "--all", "--name", "shop.many"]
    ended, shown = on_a_terminal(command, {"CRISPER_REGISTRY_URL": scene.url}, type_in)
    assert ended == 75, shown
    assert "it is discarded by now, which was not asked for" in " ".join(shown.split())
    assert [state_of(run, scene, id) for id in ids] == ["discarded", "recovering"]


class Meanwhile(Survey):
    """What somebody else does right after a task was looked at, once."""

    def __init__(self, url: str, happens: Callable[[], object]) -> None:
        super().__init__(url)
        self._happens = [happens]

    def standing(self, task_id: str) -> dict[str, Any] | None:
        found = super().standing(task_id)
        if self._happens:
            self._happens.pop()()
        return found


def test_a_decision_between_the_look_and_the_write_is_not_undone(scene: Scene) -> None:
    [id] = held_ones(scene, 1)
    with closing(Meanwhile(scene.url, lambda: scene.store.discard(id, by="bob", reason="no use"))) as survey:
        [answer] = control.recover(scene.store, survey, [id], by="ann", reason="so", only=["held"])
    assert (answer.outcome, answer.attempt) == ("refused", 1)
    assert "it is discarded by now, which was not asked for" in answer.reason


def test_a_task_that_moves_on_within_what_was_asked_for_is_stopped(scene: Scene) -> None:
    actor = Actor(scene.store, hostname="celery@many")
    held = actor.claims("moves", message=KEPT)
    with closing(Meanwhile(scene.url, lambda: actor.record(start(held)))) as survey:
        [answer] = control.stop(
            scene.store, survey, ["moves"], by="ann", reason="so", only=["claimed", "running"]
        )
    assert answer.outcome == "done"
    assert len(scene.store.orders(actor.id)) == 1


def test_what_a_person_stopped_is_recovered_with_the_others(run: Run, scene: Scene) -> None:
    held = scene.one.runs("stopped", "m-stopped", message=KEPT)
    scene.store.stop("stopped", by="ann@desk", reason="by mistake")
    scene.one.finishes(held, State.REVOKED, reason="stopped by ann@desk: by mistake")
    answer = read(run(scene.url, "recover", "--all", "--state", "revoked", "--yes", "--json"))
    assert [task["task_id"] for task in answer["tasks"]] == ["stopped"]


@pytest.mark.parametrize(
    ("verb", "state"), [("recover", "recovering"), ("discard", "discarded"), ("stop", "revoked")]
)
def test_each_is_decided_with_an_audit_row_of_its_own(run: Run, scene: Scene, verb: str, state: str) -> None:
    ids = held_ones(scene, 30)  # more than one batch
    filters = ["--state", "held", "--name", "shop.many"]
    answer = read(run(scene.url, verb, "--all", *filters, "--yes", "--reason", "the disk", "--json"))
    assert [task["task_id"] for task in answer["tasks"]] == ids
    for id in ids:
        story = read(run(scene.url, "show", id, "--json"))
        assert story["state"] == state
        last = story["verdicts"][-1]
        assert (last["reason"], "@" in last["decided_by"]) == ("the disk", True)
    assert recovery_of(scene, "held").state == "held"


def test_never_more_than_max_the_oldest_first_and_the_rest_is_counted(run: Run, scene: Scene) -> None:
    ids = held_ones(scene, 5)
    command = ["discard", "--all", "--name", "shop.many", "--yes", "--max", "3"]
    result = run(scene.url, *command, "--json")
    answer = json.loads(result.stdout)
    assert [task["task_id"] for task in answer["tasks"]] == ids[:3]
    assert answer["left"] == 2
    assert "2 more match, and stay as they are" in result.stderr
    assert state_of(run, scene, ids[3]) == "held"
    rest = run(scene.url, *command)
    assert rest.exit_code == 0
    assert "more match" not in rest.stderr
    assert [id for id in ids if id in rest.stdout] == ids[3:]


def test_a_hundred_are_enough_unless_more_are_asked_for(run: Run, scene: Scene) -> None:
    held_ones(scene, 102)
    answer = json.loads(run(scene.url, "discard", "--all", "--dry-run", "--json").stdout)
    assert (len(answer["tasks"]), answer["left"]) == (100, 5)


@pytest.mark.parametrize("verb", ["recover", "discard", "stop"])
def test_without_a_terminal_a_yes_is_needed_for_one_too(run: Run, scene: Scene, verb: str) -> None:
    command = [verb, "--all", "--state", "quarantined"]
    assert_refused(run(scene.url, *command), 75, f"{verb} 1 task without asking. Say --yes")
    assert recovery_of(scene, "quarantined").state == "quarantined"
    assert run(scene.url, *command, "--yes").exit_code == 0
    assert recovery_of(scene, "quarantined").state != "quarantined"


def test_nothing_to_do_is_no_problem(run: Run, scene: Scene) -> None:
    result = run(scene.url, "recover", "--all", "--queue", "nowhere")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "There is nothing to recover.\n", "")
    assert read(run(scene.url, "discard", "--all", "--queue", "nowhere", "--json")) == {
        "tasks": [],
        "left": 0,
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["recover"], "recover what. Name tasks by their ids, or say --all"),
        (["recover", "x", "--all"], "by their ids, or say --all with filters, not both"),
        (["recover", "x", "--state", "held"], "add --all"),
        (["discard", "--all", "--state", "running"], "'running' is not one of 'quarantined', 'held'"),
        (["stop", "--all"], "stop every task there is. Narrow it"),
        (["stop", "--all", "--yes"], "stop every task there is. Narrow it"),
        (["stop", "--all", "--argument", "", "--yes"], "stop every task there is. Narrow it"),
        (["recover", "--all", "--since", "yesterday"], "2025-03-09T03:12"),
        (["discard", "x", "--argument", "y"], "add --all"),
        (["stop", "--all", "--name", "x", "--max", "0"], "1<=x<=10000"),
        (["recover", "--all", "--name", "*a" * 7], "6 stars"),
    ],
)
def test_what_is_not_clear_is_a_usage_error(
    run: Run, read_scene: Scene, arguments: list[str], sentence: str
) -> None:
    assert_refused(run(read_scene.url, *arguments), 2, sentence)


@pytest.mark.parametrize("text", INJECTIONS)
@pytest.mark.parametrize("option", ["--queue", "--name", "--worker", "--id", "--argument"])
def test_a_hostile_filter_selects_nothing(run: Run, read_scene: Scene, option: str, text: str) -> None:
    result = run(read_scene.url, "stop", "--all", option, text, "--yes", "--json")
    most = {"--name": 512, "--argument": 200}.get(option, len(text))
    if len(text) > most:
        assert_refused(result, 2, f"{most} characters")
    else:
        assert read(result) == {"tasks": [], "left": 0}


# -- warnings ----------------------------------------------------------------


def test_what_had_begun_is_warned_of_before_it_runs_again(run: Run, scene: Scene) -> None:
    held_ones(scene, 2)
    result = run(scene.url, "recover", "--all", "--name", "shop.many", "--dry-run")
    assert result.stderr == "crisper: 2 tasks had begun: what a body has done already, it does again.\n"
    assert_plain(result.stdout)
    for verb in ("discard", "stop"):
        filters = ["--name", "shop.many", "--state", "held", "--dry-run"]
        assert run(scene.url, verb, "--all", *filters).stderr == ""


def test_one_that_had_begun_is_warned_of_as_many_are(run: Run, scene: Scene) -> None:
    [id] = held_ones(scene, 1)
    warned = f"crisper: {id}: it had begun: what a body has done already, it does again.\n"
    for more in (["--dry-run"], []):
        assert run(scene.url, "recover", id, *more).stderr == warned
    assert "what its body has done" in run(scene.url, "stop", scene.ids["running"], "--dry-run").stderr
    assert run(scene.url, "discard", scene.ids["held"], "--dry-run").stderr == ""


def test_what_was_acknowledged_early_and_may_have_begun_is_warned_of(run: Run, scene: Scene) -> None:
    ids = held_ones(scene, 2)
    with scene.store.db.write():
        for id, late in zip(ids, (False, True), strict=True):
            scene.store.db.run(
                "UPDATE crisper_attempt SET started_at = NULL, counted = FALSE, dispatched = TRUE,"
                " acks_late = ? WHERE task_id = ?",
                *(late, id),
            )
    told = run(scene.url, "recover", "--all", "--name", "shop.many", "--dry-run").stderr
    assert told.startswith("crisper: 1 task acknowledged early may have begun: ")
    assert told.count("\n") == 1


def test_what_runs_is_warned_of_before_it_is_stopped(run: Run, scene: Scene) -> None:
    result = run(scene.url, "stop", "--all", "--queue", "mail", "--yes")
    assert result.exit_code == 0
    assert "1 task running: what a body has done already is not undone" in result.stderr
    assert len(scene.store.orders(scene.one.id)) == 1


# -- on the way --------------------------------------------------------------


def test_an_interrupt_tells_what_was_done_by_then(
    run: Run, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = held_ones(scene, 3)
    carry_out, calls = acting.carry_out, []

    def interrupted(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return carry_out(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(acting, "carry_out", interrupted)
    result = run(scene.url, "recover", "--all", "--name", "shop.many", "--yes", "--json")
    assert result.exit_code == 130
    answer = json.loads(result.stdout)
    assert ([task["task_id"] for task in answer["tasks"]], answer["left"]) == (ids[:1], 2)
    assert "not done: 2 tasks" in result.stderr


def test_a_broker_that_is_down_ends_it_after_one(project: Path) -> None:
    task_id, environment = a_held_task(project, "redis://:hunter2@127.0.0.1:1/0")
    with closing(open_store(environment["PROJ_REGISTRY"])) as store:
        case = store.case(task_id, 1)
        assert case is not None
        actor = Actor(store, scope=case.recovery.scope)
        kept = Kept(b"[[], {}, {}]", "application/json", "utf-8", {"id": "t-2"}, {}, "", "celery")
        actor.runs("t-2", "m-2", name="proj.add", message=pack(kept, limit=10**6))
        actor.is_lost()
        [case] = store.take_cases("courier", case.recovery.scope, limit=10)
        assert store.decide(case.recovery, VerdictKind.HOLD, "by policy", {}, by="courier")
    command = [CRISPER, "-A", "proj", "recover", "--all", "--yes", "--json"]
    result = crisper(*command, cwd=project, **environment)
    assert result.returncode == 69, result.stderr
    answer = json.loads(result.stdout)
    assert ([task["outcome"] for task in answer["tasks"]], answer["left"]) == (["unreachable"], 1)
    assert "not done: 1 task" in result.stderr


def test_with_an_app_every_message_is_sent(project: Path) -> None:
    task_id, environment = a_held_task(project, "filesystem://")
    result = crisper(CRISPER, "-A", "proj", "recover", "--all", "--yes", "--json", cwd=project, **environment)
    assert result.returncode == 0, result.stderr
    [told] = json.loads(result.stdout)["tasks"]
    assert told == {"task_id": task_id, "outcome": "done", "reason": "sent again", "attempt": 1}
    assert list((project / "queue").glob("*.msg"))


@pytest.mark.parametrize(("answer", "code", "state"), [(b"y\n", 0, "discarded"), (b"n\n", 75, "held")])
def test_a_terminal_is_asked_with_the_count_and_shown_of_what(
    run: Run, scene: Scene, answer: bytes, code: int, state: str
) -> None:
    ids, asked = held_ones(scene, 27, name=HOSTILE[0]), list[str]()

    def type_in(seen: str) -> bytes | None:
        if "[y/N]" in seen and not asked:
            asked.append(seen)
            return answer
        return None

    command = [CRISPER, "discard", "--all", "--state", "held"]
    ended, shown = on_a_terminal(command, {"CRISPER_REGISTRY_URL": scene.url, "NO_COLOR": "1"}, type_in)
    assert ended == code, shown
    assert "Discard 29 tasks?" in asked[0]
    assert r"27 \x1b[31mred\x1b[0m, held" in asked[0]
    assert ("100%" in shown) is (code == 0)
    assert state_of(run, scene, ids[-1]) == state
