"""Servers of the tests' own: started on a free port in a temporary folder, and gone afterwards.

    with PrivateRedis() as redis:
        redis.url            # redis://127.0.0.1:21034/0
        redis.pause()        # every process of it stands still
        redis.resume()
        redis.crash()        # as a power cut would; `stop()` is the orderly way
        redis.start()        # on the same port, with what it had on disk

`pid` is the process that a signal should go to. Leaving the block ends the server, whatever state it is in.
A server whose programs are not installed raises `Unavailable` when it is made.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import psycopg
import pymysql
import redis
from kombu import Connection

HOST = "127.0.0.1"


class Unavailable(Exception):
    """Such a server cannot be had on this machine; the message says what was looked for."""


class DidNotStart(Exception):
    """A server's process ended, or did not answer in time; the message is the end of its log."""


class PrivateServer:
    """One server process in a folder of its own. Subclasses say how it is made, run and asked."""

    name: ClassVar[str]
    starts_within: ClassVar[float] = 30.0
    orderly: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._find_programs()
        self.folder = _folder(self.name)
        _living.append(self)
        try:
            self._prepare()
            self._start_on_a_free_port()
        except BaseException:
            self.close()
            raise

    # What a subclass says.

    def _find_programs(self) -> None:
        raise NotImplementedError

    def _prepare(self) -> None:
        """Fill the folder; runs once, before the first start."""

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)

    def _user(self) -> str | None:
        """Who the process runs as, if not as we do."""
        return None

    def _ask(self) -> None:
        """Return if the server answers, raise whatever its client raises if it does not."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        raise NotImplementedError

    # What a test does with it.

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} is not running"
        return self.process.pid

    def start(self) -> None:
        """Start it on its port and return once it answers; where it runs already, nothing happens."""
        if self.process is not None and self.process.poll() is None:
            return
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command(),
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests; they end their servers themselves
                **as_user(self._user()),
            )
        self._wait_until_it_answers()

    def stop(self) -> None:
        """The orderly way: clients are sent off, what is to be kept is written."""
        self._end(self.orderly)

    def crash(self) -> None:
        """Gone without a word to anybody."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Every process of it stands still: connections stay open, nothing is answered.

        Returns once they do. One thread takes the signal and stops the others: until it has had its turn
        on a busy machine, they still answer.
        """
        self._signal_all(signal.SIGSTOP)
        deadline = time.monotonic() + 10
        while not all(_stands_still(pid) for pid in _family(self.pid)):
            assert time.monotonic() < deadline, f"{self.name} does not stand still"
            time.sleep(0.001)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def close(self) -> None:
        """End it in whatever state it is, and remove its folder."""
        self._end(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self in _living:
            _living.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # How.

    def _start_on_a_free_port(self, tries: int = 5) -> None:
        """Another process may take the port between our look and the server's bind: then another port."""
        for left in reversed(range(tries)):
            self.port = free_port()
            try:
                self.start()
                break
            except DidNotStart:
                if not left:
                    raise

    def _wait_until_it_answers(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + self.starts_within
        while True:
            try:
                self._ask()
                if self.process.poll() is None:  # else a stranger answers on our port
                    return
            except Exception:
                if self.process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
            log = (self.folder / "server.log").read_text(errors="replace")[-2000:]
            self._end(signal.SIGKILL)
            raise DidNotStart(f"{self.name} did not start: {log}")

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        self._signal_all(signal.SIGCONT)
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(how)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self._signal_all(signal.SIGKILL)
            self.process.wait(10)
        self.process = None

    def _signal_all(self, which: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            for pid in _family(self.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, which)


class PrivatePostgres(PrivateServer):
    """A PostgreSQL cluster with fsync on and 300 connections. `url` is its empty `postgres` database.

    `settings` are the server's, as in its configuration file.
    """

    name = "postgres"
    orderly = signal.SIGINT  # "fast": SIGTERM would wait for the clients to leave

    def __init__(self, **settings: str) -> None:
        self._settings = settings
        super().__init__()

    def _find_programs(self) -> None:
        self._initdb = program("initdb", "/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
        self._server = str(Path(self._initdb).with_name("postgres"))
        if os.geteuid() == 0 and not _user_exists("postgres"):
            raise Unavailable("PostgreSQL does not run as root, and there is no user postgres")

    def _user(self) -> str | None:
        return "postgres" if os.geteuid() == 0 else None

    def _prepare(self) -> None:
        if user := self._user():
            shutil.chown(self.folder, user, pwd.getpwnam(user).pw_gid)
        made = subprocess.run(
            [
                self._initdb,
                "-D",
                "data",
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
            ],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            **as_user(self._user()),
        )
        if made.returncode:
            raise Unavailable(f"initdb failed: {made.stderr.strip()[-500:]}")

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": "",  # a path under a long temporary folder would not fit
            "max_connections": 300,
            **self._settings,
        }
        return [self._server, "-D", "data", *(f"--{key}={value}" for key, value in settings.items())]

    def start(self) -> None:
        """As everywhere; after its first process alone was killed, it waits for the backends to notice."""
        deadline = time.monotonic() + 10
        while True:
            try:
                super().start()
                break
            except DidNotStart as error:
                if "pre-existing shared memory block" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _ask(self) -> None:
        conninfo = self.url.replace("+psycopg", "")
        with psycopg.connect(conninfo, connect_timeout=5) as connection:
            connection.execute("SELECT 1")

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@{HOST}:{self.port}/postgres"

    def crash(self) -> None:
        """An immediate shutdown: no checkpoint, so that the next start recovers from the log.

        SIGKILL would do the same, but leave backends behind that keep the next start from its memory.
        """
        self._end(signal.SIGQUIT)

    def close(self) -> None:
        self.crash()
        super().close()


class PrivateMariaDB(PrivateServer):
    """A MariaDB server that keeps what it committed, with 300 connections. `url` is its database `test`."""

    name = "mariadb"

    def __init__(self, **settings: str) -> None:
        self._settings = settings
        super().__init__()

    def _find_programs(self) -> None:
        self._install = program("mariadb-install-db", "/usr/bin", "/opt/homebrew/bin")
        self._server = program("mariadbd", "/usr/sbin", "/usr/libexec", "/opt/homebrew/bin")
        if os.geteuid() == 0 and not _user_exists("mysql"):
            raise Unavailable("MariaDB does not run as root, and there is no user mysql")

    def _user(self) -> str | None:
        return "mysql" if os.geteuid() == 0 else None

    def _prepare(self) -> None:
        # A server that starts removes every temporary table that it finds, those of others in /tmp too.
        (self.folder / "tmp").mkdir(mode=0o777)
        if user := self._user():
            for path in (self.folder, self.folder / "tmp"):
                shutil.chown(path, user, pwd.getpwnam(user).pw_gid)
        made = subprocess.run(
            [
                self._install,
                "--no-defaults",
                f"--datadir={self.folder}/data",
                f"--tmpdir={self.folder}/tmp",
                "--auth-root-authentication-method=normal",
            ],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            **as_user(self._user()),
        )
        if made.returncode:
            raise Unavailable(f"mariadb-install-db failed: {made.stderr.strip()[-500:]}")

    def _command(self) -> list[str]:
        settings = {
            "bind-address": HOST,
            "port": self.port,
            "datadir": self.folder / "data",
            "tmpdir": self.folder / "tmp",
            "socket": self.folder / "sock",
            "pid-file": self.folder / "pid",
            "max-connections": 300,
            "innodb-buffer-pool-size": "64M",
            "character-set-server": "latin1",  # what Crisper needs, it says itself
            **self._settings,
        }
        return [
            self._server,
            "--no-defaults",
            "--skip-name-resolve",
            *(f"--{key}={value}" for key, value in settings.items()),
        ]

    def _ask(self) -> None:
        pymysql.connect(host=HOST, port=self.port, user="root", connect_timeout=5, read_timeout=5).close()

    @property
    def url(self) -> str:
        return f"mysql+pymysql://root@{HOST}:{self.port}/test"


class PrivateRedis(PrivateServer):
    """A Redis that writes nothing to its disk, unless its settings say so: after a restart it is empty."""

    name = "redis"

    def __init__(self, **settings: str) -> None:
        self._settings = settings
        super().__init__()

    def _find_programs(self) -> None:
        self._server = program("redis-server", "/usr/local/bin", "/opt/homebrew/bin")

    def _command(self) -> list[str]:
        settings = {
            "bind": HOST,
            "port": str(self.port),
            "save": "",
            "appendonly": "no",
            "dir": str(self.folder),
            **self._settings,
        }
        return [self._server, *(word for key, value in settings.items() for word in (f"--{key}", value))]

    def _ask(self) -> None:
        with redis.Redis(host=HOST, port=self.port, socket_timeout=5) as client:
            client.ping()

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"


class PrivateRabbitMQ(PrivateServer):
    """A RabbitMQ node, with an epmd of its own, so that it meets no other node. It starts in 5 s.

    `management`: with its HTTP API, at `management_url`; it starts in 8 s then. `environment`: of the
    application `rabbit`, in Erlang's words.
    """

    name = "rabbitmq"
    starts_within = 60.0

    def __init__(self, *, management: bool = False, **environment: str) -> None:
        self._epmd: subprocess.Popen[bytes] | None = None
        self._management, self._rabbit = management, environment
        super().__init__()

    def _find_programs(self) -> None:
        # Debian's scripts on PATH change the user; those beneath them do not.
        folders = ("/usr/lib/rabbitmq/bin", "/opt/homebrew/sbin")
        self._server = program("rabbitmq-server", *folders)
        self._ctl = program("rabbitmqctl", *folders)
        self._epmd_program = program("epmd", "/usr/lib/erlang/erts-*/bin", "/usr/lib/erlang/bin")

    def _prepare(self) -> None:
        (self.folder / "plugins").write_text("[rabbitmq_management].\n" if self._management else "[].\n")
        (self.folder / "rabbitmq.conf").write_text("")
        rabbit = ", ".join(f"{{{key}, {value}}}" for key, value in self._rabbit.items())
        (self.folder / "advanced.config").write_text(f"[{{rabbit, [{rabbit}]}}].\n")
        (self.folder / "rabbitmq-env.conf").write_text("")

    def _start_on_a_free_port(self, tries: int = 3) -> None:
        super()._start_on_a_free_port(tries)

    def start(self) -> None:
        if self._epmd is None or self._epmd.poll() is not None:
            self._epmd_port, self._distribution_port = free_port(), free_port()
            self._management_port = free_port()
            if self._management:
                listen = f"management.tcp.ip = {HOST}\nmanagement.tcp.port = {self._management_port}\n"
                (self.folder / "rabbitmq.conf").write_text(listen)
            self._epmd = subprocess.Popen(
                [self._epmd_program, "-port", str(self._epmd_port), "-address", HOST],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        super().start()

    def close(self) -> None:
        super().close()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait(10)
            self._epmd = None

    @property
    def management_url(self) -> str:
        return f"http://guest:guest@{HOST}:{self._management_port}"

    def ctl(self, *arguments: str) -> None:
        subprocess.run(
            [self._ctl, "-q", *arguments],
            cwd=self.folder,
            env=self._environment(),
            check=True,
            capture_output=True,
        )

    def _command(self) -> list[str]:
        return [self._server]

    def _environment(self) -> dict[str, str]:
        own = {
            "HOME": self.folder,  # Erlang's cookie
            "ERL_EPMD_PORT": self._epmd_port,
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_NODENAME": f"crisper-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": self.port,
            "RABBITMQ_DIST_PORT": self._distribution_port,
            "RABBITMQ_MNESIA_BASE": self.folder / "mnesia",
            "RABBITMQ_LOG_BASE": self.folder / "log",
            "RABBITMQ_PID_FILE": self.folder / "pid",
            "RABBITMQ_ENABLED_PLUGINS_FILE": self.folder / "plugins",
            "RABBITMQ_CONFIG_FILE": self.folder / "rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": self.folder / "advanced.config",
            "RABBITMQ_CONF_ENV_FILE": self.folder / "rabbitmq-env.conf",
            "RUNNING_UNDER_SYSTEMD": "1",  # the script becomes the node, so that `pid` is the node's
        }
        return {**os.environ, **{key: str(value) for key, value in own.items()}}

    def _ask(self) -> None:
        amqp_answers(self.url)

    @property
    def url(self) -> str:
        return self.url_of("/")

    def url_of(self, vhost: str) -> str:
        return f"amqp://guest:guest@{HOST}:{self.port}/{vhost}"


def amqp_answers(url: str) -> None:
    """Log in once, without kombu's patience; raises what the socket or the server says if that fails."""
    with Connection(url, connect_timeout=5) as connection:
        transport = connection.transport
        transport.close_connection(transport.establish_connection())


def program(name: str, *folders: str) -> str:
    """The program's path, from these folders (the highest version first) or from PATH."""
    for folder in folders:
        for path in sorted(Path("/").glob(f"{folder[1:]}/{name}"), reverse=True):
            if os.access(path, os.X_OK):
                return str(path)
    if path := shutil.which(name):
        return path
    raise Unavailable(f"{name} is not installed")


def free_port() -> int:
    """A port that nobody listens on, below those which the kernel hands out for outgoing connections.

    So it stays ours while its server is down.
    """
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port


def _folder(name: str) -> Path:
    """A temporary folder that another user can reach, should the server run as one."""
    where = Path(tempfile.gettempdir()).resolve()
    reachable = all(folder.stat().st_mode & 0o001 for folder in (where, *where.parents))
    return Path(tempfile.mkdtemp(prefix=f"crisper-{name}-", dir=where if reachable else "/tmp"))


def _user_exists(name: str) -> bool:
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(name))
    return False


def as_user(name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}


def _family(pid: int) -> Iterator[int]:
    """The process and its descendants, parents first (on Linux; elsewhere the process alone)."""
    yield pid
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in path.read_text().split():
                yield from _family(int(child))


def _stands_still(pid: int) -> bool:
    """Every thread of it (on Linux; elsewhere it is taken for granted), or it is over."""
    states = [_state(thread) for thread in Path(f"/proc/{pid}/task").glob("*/stat")]
    return not set(states) - set("TtZX")


def _state(stat: Path) -> str:
    try:
        return stat.read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


_living: list[PrivateServer] = []


def _close_what_is_left() -> None:
    for server in list(_living):
        with contextlib.suppress(Exception):
            server.close()


atexit.register(_close_what_is_left)
