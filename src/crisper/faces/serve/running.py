"""The process: it listens, serves, and ends in order on SIGTERM and Ctrl-C."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import uvicorn

from crisper.errors import CrisperError, Refused, SettingsError
from crisper.faces.alerts.channels import channels
from crisper.faces.cli.place import Place
from crisper.faces.serve.accounts import Accounts, read
from crisper.faces.serve.alerting import Alerting
from crisper.faces.serve.names import Names
from crisper.faces.serve.registry import Registry
from crisper.faces.serve.sweeping import Sweeping
from crisper.faces.serve.web import Site, application

#: Connections at once; more are told to come again.
CONNECTIONS = 1000
#: What is under way when it ends has that long.
GRACE_SECONDS = 3


class Options(NamedTuple):
    host: str
    port: int
    accounts: Path | None
    allow_hosts: tuple[str, ...]
    certificate: Path | None
    key: Path | None
    sweeps: bool


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ending: threading.Event) -> None:
        super().__init__(config)
        self.interrupted, self._ending = False, ending

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.interrupted = sig == signal.SIGINT
        self._ending.set()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM is how one ends a server: nothing went wrong, so it is not raised again."""
        ends = (signal.SIGINT, signal.SIGTERM)
        before = {sig: signal.signal(sig, self.handle_exit) for sig in ends}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)


def serve(place: Place, options: Options, say: Callable[[str], None]) -> None:
    """Returns after SIGTERM. Raises `Refused` or another `CrisperError` before anything is served."""
    names = Names(options.host, options.allow_hosts)
    known = read(options.accounts) if options.accounts else None
    if known == {}:
        raise SettingsError(
            f"nobody could sign in: {options.accounts} names no account; add one with --add-account NAME"
        )
    accounts = Accounts(known) if known else None
    if accounts is None and not names.loopback:
        raise Refused(
            f"{options.host} can be reached from elsewhere, and without accounts anybody could act there:"
            " name their file with --accounts, or serve on 127.0.0.1"
        )
    if (options.certificate is None) != (options.key is None):
        raise SettingsError("--certificate and --key go together")
    with closing(Registry(place)) as registry, closing(_listening(options)) as listening:
        sweeping = Sweeping(registry, sweeps=options.sweeps, say=say)
        site = Site(registry, names, accounts, _announcer(options, listening, say), sweeping)
        server = _Server(_config(options, site), site.ending)
        if accounts is not None:
            say(f"listening at {_address(options, listening)}/")
            if not names.loopback and options.certificate is None:
                say(
                    "passwords come here in clear: serve HTTPS with --certificate and --key, or let only"
                    " a proxy that does reach this address"
                )
        alerting = _alerting(registry, say)
        with server.capture_signals():  # from the first thing that it does to the last
            sweeping.start()
            if alerting is not None:
                alerting.start()
            try:
                server.run(sockets=[listening])
            finally:
                if alerting is not None:
                    alerting.stop()
                sweeping.stop()
    if server.interrupted:
        raise KeyboardInterrupt


def _alerting(registry: Registry, say: Callable[[str], None]) -> Alerting | None:
    """None where nobody is to be told. Raises `SettingsError`."""
    found = channels(registry.place.settings)
    return Alerting(registry, found, say=say) if found else None


def _config(options: Options, site: Site) -> uvicorn.Config:
    secure: dict[str, Any] = {}
    if options.certificate and options.key:
        secure = {"ssl_certfile": str(options.certificate), "ssl_keyfile": str(options.key)}
    config = uvicorn.Config(
        application(site),
        http="h11",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        **secure,
    )
    try:
        config.load()
    except OSError as exc:
        raise SettingsError(f"cannot use the certificate or its key: {exc}") from exc
    return config


def _listening(options: Options) -> socket.socket:
    try:
        [(family, *_, address), *_] = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listening = socket.create_server(address[:2], family=family)
        # Accepted sockets inherit it. asyncio sets it for none of them, and answers waited 40 ms for an ACK.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except (OSError, UnicodeError) as exc:
        raise CrisperError(
            f"cannot listen at {options.host}, port {options.port}: {exc}. Choose another --host or --port"
        ) from exc


def _address(options: Options, listening: socket.socket) -> str:
    scheme = "https" if options.certificate else "http"
    host = f"[{options.host}]" if ":" in options.host else options.host
    return f"{scheme}://{host}:{listening.getsockname()[1]}"


def _announcer(
    options: Options, listening: socket.socket, say: Callable[[str], None]
) -> Callable[[str], None]:
    def announce(token: str) -> None:
        say(f"open this once: {_address(options, listening)}/enter?token={token}")

    return announce
