"""One delivery in a simulated worker's hands; the stages are the real ones' (`crisper.celery.held`)."""

from __future__ import annotations

from crisper.celery.held import Stage
from crisper.core.model import Claim
from crisper.testing.simulate.broker import QUEUE, Delivery
from crisper.testing.simulate.history import Body

#: What the registry has not granted us: a fence takes nothing of it away.
NOT_CLAIMED = (Stage.ASKED, Stage.PARKED, Stage.UNANSWERABLE)


class Held:
    """One delivery and its attempt."""

    def __init__(self, seq: int, delivery: Delivery, generation: int, now: int) -> None:
        self.seq, self.delivery, self.generation = seq, delivery, generation
        self.message, self.task = delivery.message, delivery.message.task
        self.acks_late = self.task.acks_late
        self.stage = Stage.ASKED
        self.number = 1
        self.has_slot = self.wants_to_run = self.accepted = self.muted = self.is_copy = False
        self.acknowledged = False
        self.checkpoint = ""  # of the task's earlier attempts, for this one to go on from
        self.finish_seq = 0
        self.asked_at = now
        self.put_back_at: int | None = None
        self.body: Body | None = None

    @property
    def message_id(self) -> str:
        return self.message.id

    @property
    def is_open(self) -> bool:
        return self.stage in (Stage.GRANTED, Stage.DISPATCHED)

    def claim(self) -> Claim:
        task = self.task
        return Claim(
            seq=self.seq,
            task_id=task.id,
            message_id=self.message.id,
            identified=True,
            name="task",
            queue=QUEUE,
            retries=self.message.retries,
            redelivered=self.delivery.redelivered,
            acks_late=self.acks_late,
            dispatched=self.has_slot,
            tag=self.delivery.tag,
            on_lost=task.on_lost,
            loss_budget=task.loss_budget,
            message=self.message.packed,
            args_preview="[]",
            kwargs_preview="{}",
            copy=self.is_copy,
        )
