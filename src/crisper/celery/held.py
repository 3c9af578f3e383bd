"""One delivery in this worker's hands, and the stages of its way."""

from __future__ import annotations

import time
from concurrent.futures import Future
from enum import StrEnum
from typing import Any

from crisper.core.message import DELIVERY_COUNT_HEADER


class Stage(StrEnum):
    ASKED = "asked"
    GRANTED = "granted"
    PARKED = "parked"
    UNANSWERABLE = "unanswerable"  # not on record; it goes back to the broker
    DISPATCHED = "dispatched"
    DROPPED = "dropped"  # its delivery is somebody else's by now
    CLOSED = "closed"


class Held:
    """One delivery and its attempt."""

    __slots__ = (
        "accepted", "accepted_at", "acks_late", "asked_at", "checkpoint", "ended_before", "finish_seq",
        "future", "gave_prefetch", "generation", "has_slot", "is_copy", "kill_at", "message_id", "muted",
        "number", "pool", "put_back_at", "queue", "received_at", "request", "resend", "seq", "stage",
        "stays", "stopped", "task_id", "unnoticed_ms", "wants_to_run",
    )  # fmt: skip

    def __init__(self, seq: int, request: Any, message_id: str, generation: int) -> None:
        self.seq, self.request, self.message_id = seq, request, message_id
        self.task_id: str = request.id
        self.acks_late: bool = request.task.acks_late
        self.generation = generation  # of the broker connection
        self.stage = Stage.ASKED
        self.number = 1
        self.checkpoint = ""  # of the task's earlier attempts, for this one to go on from
        self.queue = ""  # that it came from
        self.stays = False  # its queue's delivery limit forbids to put it back
        self.pool: Any = None
        self.future: Future[Any] | None = None  # of a pool of threads, which queues what it has no thread for
        self.gave_prefetch = False  # a slot of the consumer's, while it is parked
        self.has_slot = False  # of the pool's semaphore, while it waits for its answer
        self.is_copy = False  # we hold another delivery of the message, on the same connection
        self.wants_to_run = False  # Celery asked to run it while it was parked
        self.accepted = False
        self.accepted_at = 0  # milliseconds of the host's monotonic clock
        self.resend = False  # what is being ended is to run again
        self.unnoticed_ms = 0  # how long its process was gone when its recorder told of it, and not the pool
        self.finish_seq = 0
        self.muted = False  # fenced: nothing it says counts
        self.stopped = ""  # by a person, who and why: its process is being ended, or it never begins
        self.kill_at = 0.0  # when its process has had its time to end
        self.asked_at = time.monotonic()
        self.ended_before = 0  # bodies of this worker, when it was asked
        self.received_at = time.time()  # of its latest delivery
        self.put_back_at: float | None = None

    @property
    def delivery_count(self) -> int:
        """How often a quorum queue has had the message given back, by its latest delivery."""
        count = (self.request._message.headers or {}).get(DELIVERY_COUNT_HEADER)
        return count if isinstance(count, int) else 0

    @property
    def is_open(self) -> bool:
        return self.stage in (Stage.GRANTED, Stage.DISPATCHED)

    def runs_without_us(self) -> None:
        """After an error of ours: its answer must not give it to the pool a second time."""
        self.stage, self.has_slot = Stage.DISPATCHED, False
