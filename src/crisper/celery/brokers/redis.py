"""Redis: what a dead worker held stays in `unacked` for `visibility_timeout` (an hour by default).

Handing back moves one entry into its queue in one Lua script, by compare-and-set
on the entry and its score, under a fresh delivery tag: kombu's own restore uses
the tag again, and then the late ack of a worker that was only paused deletes
the entry of the next holder.
"""

from __future__ import annotations

import uuid
from typing import Any

from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

from crisper.celery import MESSAGE_ID_HEADER
from crisper.celery.brokers.base import Broker
from crisper.core.model import Attempt, Recovery
from crisper.core.verdict import InBroker

#: Kombu scores an entry when it hands the message to us, a moment before or after we look at the clock.
SCORE_SECONDS = 0.5

#: KEYS: unacked, unacked_index, queue. ARGV: tag, entry as read, score as read, new payload.
#: RPUSH: the consumer pops from the right, so what was interrupted runs next.
_HAND_BACK = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
local score = redis.call('ZSCORE', KEYS[2], ARGV[1])
if (score or '') ~= ARGV[3] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('RPUSH', KEYS[3], ARGV[4])
return 1
"""


class RedisBroker(Broker):
    """Over kombu's own channel, so key prefixes, priorities and bindings are as it has them."""

    tells = True

    def __init__(self, app: Any, connection: Any) -> None:
        super().__init__(app, connection)
        self.channel = connection.default_channel
        self.client = self.channel.client

    def find(self, attempt: Attempt, recovery: Recovery) -> InBroker:
        if self._entry(attempt.tag):
            return InBroker.UNACKED
        return InBroker.QUEUED if self._queued(attempt) else InBroker.GONE

    def hand_back(self, attempt: Attempt) -> bool:
        return self._move(attempt.tag)

    def take_back(self, tag: str, received_at: float) -> bool:
        # Kombu's own restore uses the tag again: a later score is that of its next holder.
        score = self._score(tag)
        return bool(score) and float(score) <= received_at + SCORE_SECONDS and self._move(tag)

    def _entry(self, tag: str) -> bytes | None:
        entry: bytes | None = self.client.hget(self.channel.unacked_key, tag)
        return entry

    def _move(self, tag: str) -> bool:
        entry = self._entry(tag)
        if entry is None:
            return False
        score = self._score(tag)
        payload, exchange, routing_key = loads(bytes_to_str(entry))
        payload["properties"]["delivery_tag"] = str(uuid.uuid4())
        payload.setdefault("headers", {})["redelivered"] = True
        payload["properties"].setdefault("delivery_info", {})["redelivered"] = True
        keys = [
            self.channel.unacked_key,
            self.channel.unacked_index_key,
            self._key(payload, exchange, routing_key),
        ]
        moved = self.client.eval(_HAND_BACK, 3, *keys, tag, entry, score, dumps(payload))
        return bool(moved)

    def _score(self, tag: str) -> str:
        """The score as Redis itself writes it, so that it compares equal."""
        script = "return redis.call('ZSCORE', KEYS[1], ARGV[1]) or ''"
        return str(bytes_to_str(self.client.eval(script, 1, self.channel.unacked_index_key, tag)))

    def _key(self, payload: dict[str, Any], exchange: str, routing_key: str) -> str:
        queue = next(iter(self.channel._lookup(exchange, routing_key)), routing_key)
        priority = self.channel._get_message_priority(payload, reverse=False)
        return str(self.channel._q_for_pri(queue, priority))

    def _queued(self, attempt: Attempt) -> bool:
        """Whether the message waits in its queue (bounded: the 1,000 that are next and last)."""
        for step in self.channel.priority_steps:
            key = self.channel._q_for_pri(attempt.queue, step)
            for first, last in ((0, 499), (-500, -1)):
                if any(self._is(attempt, raw) for raw in self.client.lrange(key, first, last)):
                    return True
        return False

    def _is(self, attempt: Attempt, raw: bytes) -> bool:
        if attempt.task_id.encode() not in raw:
            return False
        headers = loads(bytes_to_str(raw)).get("headers") or {}
        return headers.get("id") == attempt.task_id and (
            headers.get(MESSAGE_ID_HEADER, attempt.message_id) == attempt.message_id
        )
