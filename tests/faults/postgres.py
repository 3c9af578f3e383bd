"""A PostgreSQL that can be read-only, full, slow, crowded, wrong about the time, or failed over."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.faults.preloaded import Preloaded
from tests.fleet import wait_for
from tests.servers import HOST, PrivatePostgres, Unavailable, as_user

#: Of a tablespace of its own. An empty database takes 8 MB, a fleet's registry a few more.
SMALL_MB = 64


class FaultyPostgres(PrivatePostgres):
    """`url` is a database of a role that may not have the connections kept for superusers.

    `preloaded`: the shims that it runs under, by name. `small`: that database lies on a disk of its own.
    Raises `Unavailable` where a shim cannot be compiled, or a disk not be mounted.
    """

    def __init__(self, *preloaded: str, small: bool = False, **settings: str) -> None:
        self._preloaded, self._small = preloaded, small
        self.lies: dict[str, Preloaded] = {}
        super().__init__(**settings)
        try:
            self._make_database()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        super()._prepare()
        for name in self._preloaded:
            self.lies[name] = Preloaded(name, self.folder / "preloaded")

    def _environment(self) -> dict[str, str]:
        environment = super()._environment()
        for lie in self.lies.values():
            before = environment.get("LD_PRELOAD", "")
            environment |= lie.environment
            environment["LD_PRELOAD"] = f"{lie.environment['LD_PRELOAD']} {before}".strip()
        return environment

    def _make_database(self) -> None:
        self.sql("CREATE ROLE fleet LOGIN")
        where = ""
        if self._small:
            disk = self.folder / "disk"
            self._mount(disk)
            self.sql(f"CREATE TABLESPACE small LOCATION '{disk}'")
            self.sql("GRANT CREATE ON TABLESPACE small TO fleet")
            where = " TABLESPACE small"
        self.sql(f"CREATE DATABASE fleet OWNER fleet TEMPLATE template0{where}")

    def _mount(self, disk: Path) -> None:
        disk.mkdir()
        user = self._user() or "root"
        command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_MB}m", "none", str(disk)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"a small disk needs root and mount: {done.stderr.strip()[-200:]}")
        shutil.chown(disk, user)

    def close(self) -> None:
        disk = self.folder / "disk"
        self.crash()
        if disk.is_mount():
            subprocess.run(["umount", "-l", str(disk)], check=False)
        super().close()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://fleet@{HOST}:{self.port}/fleet"

    @property
    def owner_url(self) -> str:
        """Of a superuser, in the same database: for what the test itself asks in a crowd."""
        return f"postgresql+psycopg://postgres@{HOST}:{self.port}/fleet"

    def _ask(self) -> None:
        self.sql("SELECT 1")

    def sql(self, statement: str, *params: Any, database: str = "postgres") -> list[Any]:
        """As a superuser, outside of a transaction."""
        conninfo = f"host={HOST} port={self.port} user=postgres dbname={database} connect_timeout=5"
        with psycopg.connect(conninfo, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), params or None)
            return cursor.fetchall() if cursor.description else []

    def connections(self, like: str = "crisper%") -> int:
        """Open ones whose application is named like this."""
        asked = self.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE %s", like)
        return int(asked[0][0])

    # -- faults ---------------------------------------------------------------

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """As a standby that took over the address, or a volume that was remounted: nothing can be written."""
        self.configure("default_transaction_read_only", "on")
        try:
            yield
        finally:
            self.configure("default_transaction_read_only", "off")

    def configure(self, name: str, value: str) -> None:
        """Change a setting that a reload is enough for, and wait until it holds."""
        conninfo = f"host={HOST} port={self.port} user=postgres dbname=postgres"
        with psycopg.connect(conninfo, autocommit=True, options="-c default_transaction_read_only=off") as c:
            c.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
            c.execute("SELECT pg_reload_conf()")
        wait_for(f"{name} is {value}", lambda: self.sql(f"SHOW {name}") == [(value,)])

    @contextmanager
    def full(self) -> Iterator[None]:
        """Nothing more fits on the database's own disk."""
        filler = self.folder / "disk" / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(b"\0" * 65536) == 65536:
                pass
        try:
            yield
        finally:
            filler.unlink()

    @contextmanager
    def slow(self, ms: int) -> Iterator[None]:
        """So much longer for every commit. Needs the shim `slowfsync`."""
        self.lies["slowfsync"].set(ms)
        try:
            yield
        finally:
            self.lies["slowfsync"].set(0)

    @contextmanager
    def clock_wrong_by(self, seconds: int) -> Iterator[None]:
        """Needs the shim `clockskew`."""
        self.lies["clockskew"].set(seconds)
        try:
            yield
        finally:
            self.lies["clockskew"].set(0)

    @contextmanager
    def crowded(self) -> Iterator[int]:
        """Others take every connection that is left; how many they took."""
        taken: list[psycopg.Connection[Any]] = []
        conninfo = self.url.replace("+psycopg", "")
        try:
            with contextlib.suppress(psycopg.OperationalError):
                while True:
                    taken.append(psycopg.connect(conninfo, application_name="others", connect_timeout=5))
            yield len(taken)
        finally:
            for connection in taken:
                connection.close()


class Standby(FaultyPostgres):
    """A standby of the primary, streaming; `promote` makes it the one to write to.

    Asynchronous, unless the primary's `synchronous_standby_names` says otherwise. `port`: by which the
    primary is followed, a proxy's perhaps.
    """

    def __init__(self, primary: FaultyPostgres, port: int = 0) -> None:
        self._primary, self._followed = primary, port or primary.port
        super().__init__()

    def _prepare(self) -> None:
        program = Path(self._initdb).with_name("pg_basebackup")
        shutil.chown(self.folder, self._user() or "root")
        command = [str(program), "-D", "data", "-h", HOST, "-p", str(self._followed), "-U", "postgres"]
        command += ["-R", "-X", "stream", "-c", "fast"]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, check=False, **as_user(self._user())
        )
        if done.returncode:
            raise Unavailable(f"pg_basebackup failed: {done.stderr.strip()[-300:]}")

    def _make_database(self) -> None:
        pass  # it came with the copy

    def follows(self) -> bool:
        """Whether it has all that the primary has written."""
        sent = "SELECT pg_current_wal_lsn() - min(flush_lsn) FROM pg_stat_replication"
        return bool(self._primary.sql(sent) == [(0,)])

    def promote(self) -> None:
        assert self.sql("SELECT pg_promote(true, 30)") == [(True,)]
