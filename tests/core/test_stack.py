"""Stacks as text: where something stands, and whether a task's body is in it."""

from __future__ import annotations

from crisper.core.stack import MOST_BYTES, bounded, essence, holds_a_body, waits_for_a_broker, where

FAULTHANDLER = """\
Thread 0x00007f1 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 324 in wait
  File "/srv/app/pool.py", line 9 in idle

Current thread 0x00007f2 (most recent call first):
  File "/usr/lib/python3.11/socket.py", line 706 in readinto
  File "/srv/site-packages/requests/api.py", line 59 in request
  File "/srv/app/tasks.py", line 42 in fetch
  File "/srv/site-packages/celery/app/trace.py", line 480 in trace_task
"""
PY_SPY = """\
Process 7: python -m celery worker
Python v3.11.7 (/usr/bin/python3.11)

Thread 7 (idle): "MainThread"
    sleep (/srv/app/hooks.py:12)
    create_loop (/srv/site-packages/kombu/asynchronous/hub.py:362)
"""


def test_it_stands_at_the_innermost_line_that_is_no_librarys() -> None:
    assert where(FAULTHANDLER) == "/srv/app/tasks.py:42, in fetch"
    assert where(PY_SPY) == "/srv/app/hooks.py:12, in sleep"


def test_in_libraries_alone_it_stands_at_the_innermost_of_all() -> None:
    text = "Thread 1:\n" + FAULTHANDLER.splitlines()[5] + "\n" + FAULTHANDLER.splitlines()[6]
    assert where(text) == "/usr/lib/python3.11/socket.py:706, in readinto"
    assert where("nothing to read") == where("") == ""


def test_of_several_threads_that_one_counts_which_runs_a_body() -> None:
    first, second = FAULTHANDLER.split("\n\n")
    assert where(f"{second}\n{first}") == "/srv/app/tasks.py:42, in fetch"
    assert holds_a_body(FAULTHANDLER)
    assert not holds_a_body(PY_SPY)


def test_a_main_thread_that_waits_for_its_broker_is_known_by_its_stack() -> None:
    retries = """\
Thread 0x1 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 324 in wait

Thread 0x2 (most recent call first):
  File "/srv/.venv/lib/python3.11/site-packages/kombu/utils/functional.py", line 349 in retry_over_time
  File "/srv/.venv/lib/python3.11/site-packages/celery/worker/consumer/consumer.py", line 500 in connect
"""
    assert waits_for_a_broker(retries)
    assert not waits_for_a_broker(retries.replace("utils/functional", "asynchronous/hub"))
    assert not waits_for_a_broker(PY_SPY)
    assert not waits_for_a_broker("")


def test_what_people_see_of_it_ends_where_the_body_begins() -> None:
    assert [line.split()[-1] for line in essence(FAULTHANDLER)[1:]] == ["readinto", "request", "fetch"]
    assert essence("") == []


def test_what_is_too_long_is_cut() -> None:
    assert bounded(PY_SPY) == PY_SPY
    assert len(bounded("é" * MOST_BYTES).encode()) <= MOST_BYTES + 5
