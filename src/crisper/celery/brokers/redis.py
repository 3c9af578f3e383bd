"""Redis: what a dead worker held stays in `unacked` for `visibility_timeout` (an hour by default).

Handing back moves one entry into its queue in one Lua script, by compare-and-set
on the entry and its score, under a fresh delivery tag: kombu's own restore uses
the tag again, and then the late ack of a worker that was only paused deletes
the entry of the next holder.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

from crisper.celery import MESSAGE_ID_HEADER
from crisper.celery.brokers.base import MESSAGE_ID, Broker
from crisper.celery.claims import message_id, published_id
from crisper.core.message import Kept
from crisper.core.model import Attempt, Entry, Recovery, Unclaimed
from crisper.core.verdict import InBroker
from crisper.settings import Settings

#: Kombu scores an entry before it hands the message to us, and we before we know that we have kept it: unless
#: the clock stepped back, a later score is its next holder's, from whom it must not be taken.
SCORE_SECONDS = 0.02
#: Entries looked at in one turn; the next turn goes on behind them.
LOOK_AT = 1000

#: In a message as kombu writes it, which is JSON.
TASK_ID = re.compile(rb'"id": ?"([^"\\]+)"')
#: Messages read at a time; one may have 16 MB.
PAGE = 50

#: Written in one call, in bytes, unless one message is larger.
CALL_BYTES = 2**20

#: KEYS: unacked, unacked_index, and of each entry its queue. ARGV: of each entry its tag, itself as read, its
#: score as read, its new payload. RPUSH: the consumer pops from the right, so what was interrupted runs next.
_HAND_BACK = """
local moved = {}
for at = 1, #KEYS - 2 do
  local tag, entry, score, payload = unpack(ARGV, 4 * at - 3, 4 * at)
  moved[at] = 0
  if redis.call('HGET', KEYS[1], tag) == entry and (redis.call('ZSCORE', KEYS[2], tag) or '') == score then
    redis.call('HDEL', KEYS[1], tag)
    redis.call('ZREM', KEYS[2], tag)
    redis.call('RPUSH', KEYS[2 + at], payload)
    moved[at] = 1
  end
end
return moved
"""
#: KEYS: unacked, unacked_index. ARGV: tags. The entries, and their scores as Redis itself writes them.
_LOOK_AHEAD = """
local scores = {}
for at, tag in ipairs(ARGV) do scores[at] = redis.call('ZSCORE', KEYS[2], tag) or '' end
return {redis.call('HMGET', KEYS[1], unpack(ARGV)), scores}
"""


class _Move(NamedTuple):
    """An entry on its way back."""

    tag: str
    entry: bytes
    score: str
    key: str
    payload: str


class _Put(NamedTuple):
    """A message on its way into a queue."""

    at: int  # its place among those that are sent
    key: str
    payload: str


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
        self._found: dict[tuple[str, int], InBroker] = {}  # by attempt
        self._looked_at: dict[bytes, Entry | None] = {}
        self._look_from = 0

    def look_ahead(self, attempts: Sequence[Attempt]) -> None:
        self._ahead.clear()
        self._found.clear()
        self._look(attempts)

    def find(self, attempt: Attempt, recovery: Recovery) -> InBroker:
        if _place(attempt) not in self._found:
            self._look([attempt])
        return self._found[_place(attempt)]

    def _look(self, attempts: Sequence[Attempt]) -> None:
        self._read_ahead([attempt.tag for attempt in attempts])
        held = {_place(one) for one in attempts if one.tag in self._ahead}
        queued = self._queued([one for one in attempts if _place(one) not in held])
        for place in map(_place, attempts):
            elsewhere = InBroker.QUEUED if place in queued else InBroker.GONE
            self._found[place] = InBroker.UNACKED if place in held else elsewhere

    def _read_ahead(self, tags: Sequence[str]) -> None:
        found: Any = self.client.eval(_LOOK_AHEAD, 2, self._unacked, self._index, *tags)
        seen = zip(tags, *found, strict=True)
        self._ahead.update({tag: (entry, score.decode()) for tag, entry, score in seen if entry})

    def hand_back(self, attempt: Attempt) -> bool:
        return self.hand_back_all([attempt])[0]

    def hand_back_all(self, attempts: Sequence[Attempt]) -> list[bool]:
        return self._move([(attempt.tag, attempt.queue) for attempt in attempts])

    def take_back(self, tag: str, received_at: float) -> bool:
        # Kombu's own restore uses the tag again: a later score is that of its next holder.
        self._read_ahead([tag])
        _, score = self._ahead.get(tag, (b"", ""))
        if score and float(score) <= received_at + SCORE_SECONDS:
            return self._move([(tag, "")])[0]
        self._ahead.pop(tag, None)
        return False

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

    def _send_together(self, messages: Sequence[tuple[Kept, Attempt]]) -> set[int]:
        puts: list[_Put] = []
        sent: set[int] = set()
        with self.app.amqp.Producer(self.connection, auto_declare=False) as producer:
            for at, one in enumerate(messages):
                with self._gathered(at, puts), contextlib.suppress(Exception):
                    self._publish(producer, *one)
                    sent.add(at)
        for call in _calls([put for put in puts if put.at in sent]):
            sent -= self._put(call)
        return sent

    @contextlib.contextmanager
    def _gathered(self, at: int, puts: list[_Put]) -> Iterator[None]:
        """What kombu would put into a queue is put there later, with others."""
        direct = self.channel._put

        def put(queue: str, message: dict[str, Any], **kwargs: Any) -> None:
            if queue in (getattr(self.channel, "_expires", None) or ()):
                direct(queue, message, **kwargs)  # it lives on with each message
                return
            priority = self.channel._get_message_priority(message, reverse=False)
            key = self._name(self.channel._q_for_pri(queue, priority))
            puts.append(_Put(at, key, dumps(message)))

        self.channel._put = put
        try:
            yield
        finally:
            del self.channel._put

    def _put(self, puts: Sequence[_Put]) -> set[int]:
        """Those that may not have arrived."""
        pipeline = self.client.pipeline(transaction=False)
        for put in puts:
            pipeline.lpush(put.key, put.payload)
        try:
            results = pipeline.execute(raise_on_error=False)
        except redis.RedisError:
            return {put.at for put in puts}
        return {put.at for put, result in zip(puts, results, strict=True) if isinstance(result, Exception)}

    def _name(self, key: str) -> str:
        """The key as the server has it."""
        return f"{getattr(self.channel, 'global_keyprefix', None) or ''}{key}"

    def _move(self, entries: Sequence[tuple[str, str]]) -> list[bool]:
        """Of each tag, with its queue where that is known, whether its entry went back as it was read."""
        unread = [tag for tag, _ in entries if tag not in self._ahead]
        if unread:
            self._read_ahead(unread)
        read = [(tag, came_from, self._ahead.pop(tag, None)) for tag, came_from in entries]
        moves = [_Move(tag, *seen, *self._back(seen[0], came_from)) for tag, came_from, seen in read if seen]
        moved = {move.tag for call in _calls(moves) for move in self._run(call)}
        return [tag in moved for tag, _ in entries]

    def _run(self, moves: Sequence[_Move]) -> list[_Move]:
        """Those that were made."""
        keys = self._unacked, self._index, *(move.key for move in moves)
        arguments = (part for move in moves for part in (move.tag, move.entry, move.score, move.payload))
        made: Any = self.client.eval(_HAND_BACK, len(keys), *keys, *arguments)
        return [move for move, did in zip(moves, made, strict=True) if did]

    def _back(self, entry: bytes, came_from: str) -> tuple[str, str]:
        """The key of its list, and the message as it goes there."""
        payload, exchange, routing_key = json.loads(entry)
        payload["properties"]["delivery_tag"] = str(uuid.uuid4())
        payload.setdefault("headers", {})["redelivered"] = True
        payload["properties"].setdefault("delivery_info", {})["redelivered"] = True
        return self._queue_of(payload, exchange, routing_key, came_from), json.dumps(payload)

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

    def _queued(self, attempts: Sequence[Attempt]) -> set[tuple[str, int]]:
        """Those whose messages wait in their queues (bounded: the 1,000 that are next and last of each)."""
        found: set[tuple[str, int]] = set()
        for queue in {one.queue for one in attempts}:
            wanted: dict[bytes, list[Attempt]] = {}
            for one in attempts:
                if one.queue == queue:
                    wanted.setdefault(one.task_id.encode(), []).append(one)
            for raw in self._ends(queue):
                near = [one for id in TASK_ID.findall(raw) for one in wanted.get(id, ())]
                found.update(_place(one) for one in near if self._is(one, raw))
        return found

    def _ends(self, queue: str) -> Iterator[bytes]:
        for step in self.channel.priority_steps:
            key = self._name(self.channel._q_for_pri(queue, step))
            for first, last in ((0, 499), (-500, -1)):
                waiting: Any = self.client.lrange(key, first, last)
                yield from waiting

    def _is(self, attempt: Attempt, raw: bytes) -> bool:
        headers = loads(bytes_to_str(raw)).get("headers") or {}
        return headers.get("id") == attempt.task_id and (
            published_id(headers.get(MESSAGE_ID_HEADER, attempt.message_id))
            == published_id(attempt.message_id)
        )


def _place(attempt: Attempt) -> tuple[str, int]:
    return attempt.task_id, attempt.number


_Written = TypeVar("_Written", _Move, _Put)


def _calls(written: Sequence[_Written]) -> Iterator[list[_Written]]:
    """In calls of a limited size."""
    call: list[_Written] = []
    size = 0
    for one in written:
        size += len(one.payload)
        if call and size > CALL_BYTES:
            yield call
            call, size = [], len(one.payload)
        call.append(one)
    if call:
        yield call
