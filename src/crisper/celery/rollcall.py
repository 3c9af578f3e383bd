"""Which worker nodes answer at the broker, with Crisper or without, and what they say that they have."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from typing import Any

from celery import Celery

#: How long answers are awaited, in seconds; a node with a loop answers within milliseconds. To connect may
#: take as long again.
ANSWER_SECONDS = 1.0
CONNECT_SECONDS = 2.0


def in_their_hands(app: Celery, connection: Any, task_ids: Sequence[str]) -> frozenset[str]:
    """Those of the tasks that a worker says it holds or runs. Blocks for `ANSWER_SECONDS`.

    Of the others nothing is known: their holder may be busy, or cut off.
    """
    asked = app.control.inspect(timeout=ANSWER_SECONDS, connection=connection)
    answers = (asked.query_task(*task_ids) or {}).values()
    return frozenset(id for answer in answers if isinstance(answer, dict) for id in answer if id in task_ids)


def consumed_blindly(app: Celery, connection: Any, recorded: Collection[str]) -> set[str]:
    """Queues that nodes which are not on record say they consume from. Blocks for `ANSWER_SECONDS`.

    A node that does not answer in time is not seen.
    """
    answers = app.control.inspect(timeout=ANSWER_SECONDS, connection=connection).active_queues() or {}
    blind = [consumed for node, consumed in answers.items() if node not in recorded]
    return {str(queue.get("name")) for consumed in blind for queue in consumed}


class RollCall:
    """A ping to every node, from a thread of its own, because a broker may keep us waiting for ever.

    Who answers is there. Who does not may be busy (a solo pool at work), cut off or gone: nothing follows.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._present: list[str] | None = None
        self._thread = threading.Thread(target=self._ask, name="crisper-roll-call", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def present(self) -> list[str] | None:
        """Hostnames of the nodes that answered; None if the broker could not be asked.

        Blocks for `CONNECT_SECONDS` and `ANSWER_SECONDS` at most.
        """
        self._thread.join(CONNECT_SECONDS + ANSWER_SECONDS)
        return self._present

    def _ask(self) -> None:
        try:
            with self._app.connection_for_write(connect_timeout=CONNECT_SECONDS) as connection:
                connection.ensure_connection(max_retries=1, timeout=CONNECT_SECONDS)
                answers = self._app.control.ping(timeout=ANSWER_SECONDS, connection=connection)
        except Exception:  # of any transport: out of reach, or without broadcasts
            return
        self._present = sorted({str(name) for answer in answers or () for name in answer})
