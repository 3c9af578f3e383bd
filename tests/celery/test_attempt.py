"""What task code says of itself: it costs next to nothing, blocks nobody and fails nothing."""

from __future__ import annotations

import marshal
import select
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery
from celery.app.trace import build_tracer

import crisper
from crisper.celery.attempt import AT_ONCE, CurrentAttempt
from crisper.celery.checkpoint import MOST_BYTES
from crisper.celery.child import Child
from crisper.celery.link import Link
from crisper.errors import CheckpointError
from crisper.recorder import wire
from crisper.recorder.reply import ANCILLARY, Reply, descriptor

Words = list[tuple[Any, ...]]


@pytest.fixture
def app() -> Celery:
    app = Celery("attempts", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.task_store_eager_result = True
    return app


@pytest.fixture
def recorder() -> Iterator[socket.socket]:
    """Where a recorder would read what this process's attempts say."""
    link = Link("test@host", dict)
    child = Child(link)
    child.connect()
    reading = link._sockets.words_read
    reading.setblocking(False)
    yield reading
    child.disconnect()
    for end in (link.words, reading):
        end.close()


def said(recorder: socket.socket) -> Words:
    words = []
    while True:
        try:
            words.append(marshal.loads(recorder.recv(65536)))
        except BlockingIOError:
            return words


def attempt_of(app: Celery, body: Any, known: tuple[int, int, str] = (5, 2, "")) -> Any:
    """Run the body as the attempt of that claim, as a pool does."""

    def whole(self: Any) -> Any:
        return body(self)

    task = app.task(bind=True, shared=False, name=f"t{id(body)}")(whole)
    trace = build_tracer(task.name, task, app=app, eager=True, propagate=True)
    return trace("the-task", (), {}, {"id": "the-task", "crisper": known}).retval


def test_an_attempt_knows_itself_and_says_how_far_it_is(app: Celery, recorder: socket.socket) -> None:
    def body(self: Any) -> tuple[str | None, int, bool]:
        mine = crisper.current_attempt()
        mine.progress(3, 7, "reads")
        return mine.task_id, mine.number, bool(mine)

    assert attempt_of(app, body) == ("the-task", 2, True)
    assert said(recorder) == [(wire.PROGRESS, 5, 3, 7, "reads")]


def test_a_hundred_thousand_rows_are_a_few_words_and_the_last_one(
    app: Celery, recorder: socket.socket
) -> None:
    def body(self: Any) -> None:
        for done in range(100_001):
            crisper.current_attempt().progress(done, 100_000)

    attempt_of(app, body)
    words = said(recorder)
    assert AT_ONCE < len(words) <= AT_ONCE + 4, "a slow machine takes a second or two for it"
    assert (words[0][2], words[-1][2]) == (0, 100_000)


def test_a_full_socket_costs_the_word_and_never_the_task(app: Celery, recorder: socket.socket) -> None:
    def body(self: Any) -> str:
        for _ in range(1000):
            crisper.current_attempt().progress(7, 7, "x" * 200)
        return "done"

    assert attempt_of(app, body) == "done"
    assert 0 < len(said(recorder)) < 1000


class Odd:
    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value of an array with more than one element is ambiguous")

    def __hash__(self) -> int:
        return 0


@pytest.mark.parametrize("nonsense", [(None,), ("x", "y"), (Odd(), Odd(), Odd()), ([], {}), (1, 2, Odd())])
def test_nonsense_is_left_unsaid(app: Celery, recorder: socket.socket, nonsense: tuple[Any, ...]) -> None:
    attempt_of(app, lambda self: [crisper.current_attempt().progress(*nonsense) for _ in range(9)])
    assert [word[2:4] for word in said(recorder)] in ([], [(1, 2)] * AT_ONCE)


def test_a_soft_time_limit_reaches_the_task_although_it_tells_of_itself_all_the_time(
    app: Celery, recorder: socket.socket
) -> None:
    def limit(number: int, frame: Any) -> None:
        raise SoftTimeLimitExceeded

    def body(self: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        while True:
            crisper.current_attempt().progress(7, 7)

    before = signal.signal(signal.SIGALRM, limit)
    try:
        with pytest.raises(SoftTimeLimitExceeded):
            attempt_of(app, body)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_what_is_said_after_the_end_is_nobodys(app: Celery, recorder: socket.socket) -> None:
    mine = attempt_of(app, lambda self: [crisper.current_attempt()])[0]
    mine.progress(7, 7)
    assert said(recorder) == []
    assert not crisper.current_attempt()


def test_a_thread_of_the_task_may_be_handed_its_attempt(app: Celery, recorder: socket.socket) -> None:
    def body(self: Any) -> None:
        mine = crisper.current_attempt()
        thread = threading.Thread(target=lambda: mine.progress(int(not crisper.current_attempt()), 7))
        thread.start()
        thread.join()

    attempt_of(app, body)
    assert said(recorder) == [(wire.PROGRESS, 5, 1, 7, "")]


def test_a_plain_call_is_a_part_of_its_attempt_and_an_eager_task_is_one_of_its_own(
    app: Celery, recorder: socket.socket
) -> None:
    @app.task(shared=False)
    def other() -> tuple[str | None, int]:
        mine: CurrentAttempt = crisper.current_attempt()
        mine.progress(7, 7)
        return mine.task_id, mine.number

    def body(self: Any) -> list[Any]:
        return [other(), other.apply(task_id="eager").get(), other()]

    assert attempt_of(app, body) == [("the-task", 2), ("eager", 0), ("the-task", 2)]
    assert len(said(recorder)) == 2


def test_celerys_own_progress_counts_and_is_stored_as_ever(app: Celery, recorder: socket.socket) -> None:
    def body(self: Any) -> Any:
        self.update_state(state="PROGRESS", meta={"current": 3, "total": 7})
        self.update_state(task_id="of another", state="PROGRESS", meta={"current": 4, "total": 7})
        self.update_state(state="FAILURE", meta={"current": 5, "exc_type": "E", "exc_message": "m"})
        self.update_state(state="PROGRESS", meta={"file": "a.pdf"})
        return app.AsyncResult("of another").info

    assert attempt_of(app, body) == {"current": 4, "total": 7}
    assert said(recorder) == [(wire.PROGRESS, 5, 3, 7, "")]


def test_without_a_worker_everything_answers() -> None:
    nobody = crisper.current_attempt()
    nobody.progress(1, 2, "three")
    nobody.progress(2, 2)
    assert (bool(nobody), nobody.task_id, nobody.number) == (False, None, 0)


# -- checkpoints --------------------------------------------------------------


def test_a_checkpoint_is_on_its_way_at_once_and_is_what_the_attempt_goes_on_from(
    app: Celery, recorder: socket.socket
) -> None:
    def body(self: Any) -> list[Any]:
        mine = crisper.current_attempt()
        return [mine.last_checkpoint, mine.checkpoint({"read": (1, 2)}), mine.last_checkpoint]

    given = (5, 2, '{"read":[7]}')
    assert attempt_of(app, body, given) == [{"read": [7]}, "", {"read": [1, 2]}]
    assert said(recorder) == [(wire.CHECKPOINT, 5, "the-task", '{"read":[1,2]}', False)]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"at": object()}, "not JSON serializable"),
        (float("nan"), "Out of range float"),
        ({(1, 2): 3}, "keys must be str"),
        ("x" * MOST_BYTES, r"a checkpoint of 32,770 bytes is more than 32,768"),
    ],
)
def test_what_is_no_json_or_too_much_of_it_is_refused_in_words_without_a_worker_too(
    data: Any, why: str
) -> None:
    with pytest.raises(CheckpointError, match=why):
        crisper.current_attempt().checkpoint(data)


def test_without_a_worker_nothing_is_kept_and_nothing_is_waited_for() -> None:
    nobody = crisper.current_attempt()
    assert (nobody.checkpoint([1], durable=True), crisper.current_attempt().last_checkpoint) == ("", None)


def answering(recorder: socket.socket, *words: str) -> threading.Thread:
    """A recorder that answers so; by `dies` it dies with the checkpoint in its hands."""

    def answer() -> None:
        for word in words:
            assert select.select([recorder], [], [], 10)[0]
            _, ancillary, _, _ = recorder.recvmsg(65536, ANCILLARY)
            reply = Reply(descriptor(ancillary))
            if word != "dies":
                reply(word)
            del reply

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


@pytest.mark.parametrize("words", [("registry",), ("journal",), ("dies", "dies", "registry")])
def test_a_durable_one_returns_when_it_is_safe_and_says_where(
    app: Celery, recorder: socket.socket, words: tuple[str, ...]
) -> None:
    thread = answering(recorder, *words)
    assert attempt_of(app, lambda self: crisper.current_attempt().checkpoint(1, durable=True)) == words[-1]
    thread.join()


def test_a_durable_one_of_a_fenced_attempt_says_so(app: Celery, recorder: socket.socket) -> None:
    thread = answering(recorder, "late")
    with pytest.raises(CheckpointError, match="over, or fenced"):
        attempt_of(app, lambda self: crisper.current_attempt().checkpoint(1, durable=True))
    thread.join()


def test_a_durable_one_that_nobody_answers_says_what_to_look_at(app: Celery, recorder: socket.socket) -> None:
    with pytest.raises(CheckpointError, match=r"not on record after 0.1 s.*crisper_registry_url"):
        attempt_of(app, lambda self: crisper.current_attempt().checkpoint(1, durable=True, timeout=0.1))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(CheckpointError):
        attempt_of(app, lambda self: crisper.current_attempt().checkpoint(1, durable=True, timeout=0.1))
    assert len(list(Path("/proc/self/fd").iterdir())) == before, "no socket is left behind"
