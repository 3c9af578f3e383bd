"""A broker's connection that is lost while Celery waits on it, and a message is not acknowledged."""

from __future__ import annotations

from typing import Any

import redis
from kombu import Connection

from crisper.celery.reconnecting import outlast_close
from tests.left_out import needs
from tests.servers import PrivateRedis


def break_poll(channel: Any) -> None:
    def read() -> None:
        channel._in_poll = None
        raise redis.ConnectionError("by a test")

    channel._in_poll, channel._brpop_read = True, read


def test_a_redis_that_is_away_ends_no_worker_that_closes_its_lost_connection_twice() -> None:
    with needs("redis"), PrivateRedis() as server, Connection(server.url) as connection:
        outlast_close(connection)
        channel: Any = connection.default_channel
        with connection.SimpleQueue("q") as queue:
            queue.put("a message")
        assert channel.basic_get("q") is not None

        for one in (channel, connection.channel()):  # as when another socket was heard first
            break_poll(one)
        server.stop()
        connection.collect()  # which gives up half-way
        connection.close()
