"""Redis: what a dead worker held stays in `unacked` for `visibility_timeout` (an hour by default).

Handing back moves one entry into its queue in one Lua script, by compare-and-set
on the entry and its score, under a fresh delivery tag: kombu's own restore uses
the tag again, and then the late ack of a worker that was only paused deletes
the entry of the next holder.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

from crisper.celery import MESSAGE_ID_HEADER
from crisper.celery.brokers.base import MESSAGE_ID, Broker
from crisper.celery.claims import message_id, published_id
from crisper.core.model import Attempt, Entry, Recovery, Unclaimed
from crisper.core.verdict import InBroker
from crisper.settings import Settings

#: Kombu scores an entry when it hands the message to us, a moment before or after we look at the clock.
SCORE_SECONDS = 0.5
#: Entries looked at in one turn; the next turn goes on behind them.
LOOK_AT = 1000

#: Messages read at a time; one may have 16 MB.
PAGE = 50

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
#: KEYS: unacked, unacked_index. ARGV: tags. The entries, and their scores as Redis itself writes them.
_LOOK_AHEAD = """
local scores = {}
for at, tag in ipairs(ARGV) do scores[at] = redis.call('ZSCORE', KEYS[2], tag) or '' end
return {redis.call('HMGET', KEYS[1], unpack(ARGV)), scores}
"""
#: The score as Redis itself writes it, so that it compares equal.
_SCORE = "return redis.call('ZSCORE', KEYS[1], ARGV[1]) or ''"


class RedisBroker(Broker):
    """By kombu's own channel, so priorities and bindings are as it has them. Commands go through a client
    without its key prefix, which kombu's own applies to some commands only: `_name` adds it."""

    tells = True

    def __init__(self, app: Any, connection: Any, settings: Settings) -> None:
        super().__init__(app, connection, settings)
        self.channel = connection.default_channel
        self.client = redis.Redis(connection_pool=self.channel.client.connection_pool)
        self.forgets_after = float(self.channel.visibility_timeout)
        self._unacked = self._name(self.channel.unacked_key)
        self._index = self._name(self.channel.unacked_index_key)
        self._ahead: dict[str, tuple[bytes, str]] = {}  # entries and their scores, by tag
        self._looked_at: dict[bytes, Entry | None] = {}
        self._look_from = 0

    def look_ahead(self, attempts: Sequence[Attempt]) -> None:
        tags = [attempt.tag for attempt in attempts]
        found: Any = self.client.eval(_LOOK_AHEAD, 2, self._unacked, self._index, *tags)
        seen = zip(tags, *found, strict=True)
        self._ahead = {tag: (entry, score.decode()) for tag, entry, score in seen if entry and score}

    def find(self, attempt: Attempt, recovery: Recovery) -> InBroker:
        if attempt.tag in self._ahead or self._entry(attempt.tag):
            return InBroker.UNACKED
        return InBroker.QUEUED if self._queued(attempt) else InBroker.GONE

    def hand_back(self, attempt: Attempt) -> bool:
        return self._move(attempt.tag, attempt.queue)

    def take_back(self, tag: str, received_at: float) -> bool:
        # Kombu's own restore uses the tag again: a later score is that of its next holder.
        score = self._score(tag)
        return bool(score) and float(score) <= received_at + SCORE_SECONDS and self._move(tag)

    def keep(self, tags: Collection[str]) -> None:
        if tags:  # XX: what was acknowledged meanwhile does not come back
            now = time.time()
            self.client.zadd(self._index, dict.fromkeys(tags, now), xx=True)

    def unkept(self, seconds: float, *, every: float) -> list[tuple[Entry, float]]:
        if not self.client.set(f"{self._index}.crisper", "", nx=True, px=max(1, int(every * 900))):
            return []
        listed: Any = self.client.zrangebyscore(
            self._index, "-inf", time.time() - seconds, start=self._look_from, num=LOOK_AT, withscores=True
        )
        self._look_from = self._look_from + LOOK_AT if len(listed) == LOOK_AT else 0
        known = self._looked_at
        new = [tag for tag, _ in listed if tag not in known]
        known.update(entry for at in range(0, len(new), PAGE) for entry in self._read(new[at : at + PAGE]))
        self._looked_at = {tag: known[tag] for tag, _ in listed}
        entries = ((self._looked_at[tag], score) for tag, score in listed)
        return [(entry, float(score)) for entry, score in entries if entry is not None]

    def _read(self, tags: list[bytes]) -> Iterator[tuple[bytes, Entry | None]]:
        """Whose delivery each is; None if it is gone, or no message of a task."""
        found: Any = self.client.hmget(self._unacked, tags)
        yield from ((tag, self._entry_of(tag, raw)) for tag, raw in zip(tags, found, strict=True))

    def _entry_of(self, tag: bytes, raw: bytes | None) -> Entry | None:
        try:
            payload = loads(bytes_to_str(raw))[0]
            headers = payload["headers"]
            body = self.channel.decode_body(
                payload.get("body") or "", payload["properties"].get("body_encoding")
            )
            return Entry(headers["id"], message_id(headers["id"], headers, body), tag.decode())
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            return None

    def locate(self, messages: Sequence[Unclaimed], *, unkept: float) -> dict[str, bool | None]:
        # Queues first: from there a message goes into `unacked`, and then onto the record.
        missing = {one.message_id.encode() for one in messages}
        for queue in {one.queue for one in messages}:
            for step in self.channel.priority_steps:
                for raw in self._waiting(self._name(self.channel._q_for_pri(queue, step))):
                    missing.difference_update(MESSAGE_ID.findall(raw))
        kept: Any = self.client.zrangebyscore(self._index, time.time() - unkept, "+inf")
        held = set(kept)
        for tag, raw in self.client.hscan_iter(self._unacked, count=PAGE):
            if tag in held:
                missing.difference_update(MESSAGE_ID.findall(raw))
        return {one.message_id: one.message_id.encode() not in missing for one in messages}

    def _waiting(self, key: str) -> Iterator[bytes]:
        """A queue's messages, from the end at which new ones arrive: what is pushed or taken meanwhile
        shows one twice, or shows it in `unacked`, and hides none."""
        first, page = 0, self._page(key, 0)
        while page:
            yield from page
            first += PAGE
            page = self._page(key, first)

    def _page(self, key: str, first: int) -> list[bytes]:
        page: Any = self.client.lrange(key, first, first + PAGE - 1)
        return list(page)

    def _name(self, key: str) -> str:
        """The key as the server has it."""
        return f"{getattr(self.channel, 'global_keyprefix', None) or ''}{key}"

    def _entry(self, tag: str) -> Any:
        return self.client.hget(self._unacked, tag)

    def _move(self, tag: str, came_from: str = "") -> bool:
        entry, score = self._ahead.pop(tag, None) or (self._entry(tag), "")
        if entry is None:
            return False
        score = score or self._score(tag)
        payload, exchange, routing_key = loads(bytes_to_str(entry))
        payload["properties"]["delivery_tag"] = str(uuid.uuid4())
        payload.setdefault("headers", {})["redelivered"] = True
        payload["properties"].setdefault("delivery_info", {})["redelivered"] = True
        keys = self._unacked, self._index, self._queue_of(payload, exchange, routing_key, came_from)
        return bool(self.client.eval(_HAND_BACK, 3, *keys, tag, entry, score, dumps(payload)))

    def _score(self, tag: str) -> str:
        return str(bytes_to_str(self.client.eval(_SCORE, 1, self._index, tag)))

    def _queue_of(self, payload: dict[str, Any], exchange: str, routing_key: str, came_from: str) -> str:
        """The key of its list. An exchange may feed several queues, and others have had their copy."""
        queues = self.app.amqp.queues
        if came_from in queues:
            queue = str(queues[came_from].name)
        else:
            bound = sorted(self.channel._lookup(exchange, routing_key))
            ours = {declared.name for declared in queues.consume_from.values()}
            queue = next(iter([*(name for name in bound if name in ours), *bound, routing_key]))
        priority = self.channel._get_message_priority(payload, reverse=False)
        return self._name(self.channel._q_for_pri(queue, priority))

    def _queued(self, attempt: Attempt) -> bool:
        """Whether the message waits in its queue (bounded: the 1,000 that are next and last)."""
        for step in self.channel.priority_steps:
            key = self._name(self.channel._q_for_pri(attempt.queue, step))
            for first, last in ((0, 499), (-500, -1)):
                waiting: Any = self.client.lrange(key, first, last)
                if any(self._is(attempt, raw) for raw in waiting):
                    return True
        return False

    def _is(self, attempt: Attempt, raw: bytes) -> bool:
        if attempt.task_id.encode() not in raw:
            return False
        headers = loads(bytes_to_str(raw)).get("headers") or {}
        return headers.get("id") == attempt.task_id and (
            published_id(headers.get(MESSAGE_ID_HEADER, attempt.message_id))
            == published_id(attempt.message_id)
        )
