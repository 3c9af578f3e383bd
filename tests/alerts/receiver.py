"""Somebody who is told of incidents: a real HTTP server, and what it got."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Receiver(ThreadingHTTPServer):
    def __init__(self, secure: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        if secure is not None:
            self.socket = secure.wrap_socket(self.socket, server_side=True)
        self.answers = 200  # or what it is set to
        self.headers: dict[str, str] = {}
        self.got: list[dict[str, Any]] = []
        self.refused: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"

    def told(self) -> list[tuple[str, int]]:
        """What it took: the type of each event, and how many things it is about."""
        return [(one["type"], one["data"].get("count", 0)) for one in self.got]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if "webhook-id" in self.headers:
            event = Webhook(SECRET).verify(body, dict(self.headers))
            assert event["id"] == self.headers["webhook-id"]
            assert self.headers["Content-Type"] == "application/cloudevents+json; charset=utf-8"
        else:
            event = json.loads(body)
        (self.server.got if self.server.answers < 300 else self.server.refused).append(event)
        self.send_response(self.server.answers)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def receiving(secure: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    with Receiver(secure) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(5)
