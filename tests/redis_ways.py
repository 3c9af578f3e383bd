"""Redis servers that are reached otherwise than by a plain TCP port: TLS, a socket, accounts, Sentinel."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import redis
from redis.sentinel import Sentinel

from tests.servers import HOST, PrivateRedis, program

MASTER = "orders"
USER, PASSWORD = "worker", "s%20e/c@ret"
#: As a URL writes it.
QUOTED = "s%2520e%2Fc%40ret"


def certificate(folder: Path) -> tuple[Path, Path]:
    """A key, and a certificate for this host that it signed itself."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    openssl = program("openssl", "/usr/bin", "/usr/local/bin", "/opt/homebrew/bin")
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", f"subjectAltName=IP:{HOST}", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, cert


class TlsRedis(PrivateRedis):
    """Speaks nothing but TLS. Its certificate is its own authority."""

    def _prepare(self) -> None:
        self.key, self.cert = certificate(self.folder)

    def _command(self) -> list[str]:
        tls = {"port": "0", "tls-port": str(self.port), "tls-auth-clients": "no"}
        files = {"tls-key-file": self.key, "tls-cert-file": self.cert, "tls-ca-cert-file": self.cert}
        words = (f"--{name} {value}" for name, value in {**tls, **files}.items())
        return [*super()._command(), *(word for pair in words for word in pair.split(" ", 1))]

    def _ask(self) -> None:
        with redis.Redis.from_url(self.url, socket_timeout=5) as client:
            client.ping()

    @property
    def url(self) -> str:
        return f"rediss://{HOST}:{self.port}/0?ssl_cert_reqs=required&ssl_ca_certs={self.cert}"


class SocketRedis(PrivateRedis):
    """Listens on a file, for whoever knows its user's password."""

    @property
    def socket(self) -> Path:
        return self.folder / "redis.sock"

    def _command(self) -> list[str]:
        return [*super()._command(), "--unixsocket", str(self.socket)]

    def _ask(self) -> None:
        super()._ask()
        assert self.socket.exists()

    @property
    def url(self) -> str:
        return f"redis+socket://{self.socket}?virtual_host=2"


class AccountRedis(PrivateRedis):
    """Its only user has a password with everything in it that a URL must quote."""

    def _ask(self) -> None:
        everybody = redis.Redis(host=HOST, port=self.port, socket_timeout=5)
        with everybody, contextlib.suppress(redis.AuthenticationError):
            may = {"keys": ["*"], "channels": ["*"], "categories": ["+@all"]}
            everybody.acl_setuser(USER, enabled=True, passwords=[f"+{PASSWORD}"], **may)
            everybody.acl_setuser("default", enabled=False)
        with redis.Redis.from_url(self.url, socket_timeout=5) as client:
            client.ping()

    @property
    def url(self) -> str:
        return f"redis://{USER}:{QUOTED}@{HOST}:{self.port}/0"


class RedisSentinel(PrivateRedis):
    """Watches one master, and decides alone."""

    name = "sentinel"

    def __init__(self, master: PrivateRedis) -> None:
        self._master = master
        super().__init__()

    def _prepare(self) -> None:
        (self.folder / "sentinel.conf").write_text(
            f"sentinel monitor {MASTER} {HOST} {self._master.port} 1\n"
            f"sentinel down-after-milliseconds {MASTER} 1000\n"
            f"sentinel failover-timeout {MASTER} 3000\n"
        )

    def _command(self) -> list[str]:
        words = ["--sentinel", "--bind", HOST, "--port", str(self.port)]
        return [self._server, str(self.folder / "sentinel.conf"), *words]

    @property
    def url(self) -> str:
        return f"sentinel://{HOST}:{self.port}/0"


class Group:
    """A master, a replica of it, and a sentinel that knows both."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.master = stack.enter_context(PrivateRedis(**{"repl-diskless-sync-delay": "0"}))
        self.replica = stack.enter_context(PrivateRedis(replicaof=f"{HOST} {self.master.port}"))
        self.sentinel = stack.enter_context(RedisSentinel(self.master))
        self.url = self.sentinel.url
        self._client = Sentinel([(HOST, self.sentinel.port)], socket_timeout=5)

    def is_whole(self) -> bool:
        """Whether the replica follows, as the master sees it (before the first answer of a replica that says
        "up" it is sent nothing), and the sentinel knows it."""
        with contextlib.suppress(redis.RedisError), redis.Redis.from_url(self.master.url) as master:
            known = self._client.sentinels[0].sentinel_slaves(MASTER)
            follows = master.info("replication").get("slave0", {}).get("state") == "online"
            return follows and any(not each["is_disconnected"] for each in known)
        return False

    def is_replicated(self) -> bool:
        """Whether the replica has confirmed all that the master has now."""
        with redis.Redis.from_url(self.master.url) as master:
            master.set("written", "last")
            return int(master.wait(1, 1000)) == 1

    def since_renewal(self) -> float:
        """Seconds since the latest renewal of what the replica keeps as unacknowledged."""
        with redis.Redis.from_url(self.replica.url) as replica:
            scores = [score for _, score in replica.zrange("unacked_index", 0, -1, withscores=True)]
        return time.time() - max(scores, default=0.0)

    def leads(self) -> int:
        """The port of the master, by the sentinel."""
        with contextlib.suppress(redis.RedisError):
            return int(self._client.discover_master(MASTER)[1])
        return 0


@contextlib.contextmanager
def group() -> Iterator[Group]:
    with contextlib.ExitStack() as stack:
        yield Group(stack)
