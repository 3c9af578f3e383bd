"""A MariaDB that can be crowded, or send its clients off."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pymysql
from pymysql.constants import ER

from tests.servers import HOST, PrivateMariaDB


class FaultyMariaDB(PrivateMariaDB):
    """`url` is a database of a user that may not have the connection kept for administrators."""

    def __init__(self, **settings: str) -> None:
        super().__init__(**settings)
        try:
            self.sql("CREATE DATABASE fleet")
            self.sql("CREATE USER fleet@'%'")
            self.sql("GRANT ALL ON fleet.* TO fleet@'%'")
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"mariadb://fleet@{HOST}:{self.port}/fleet"

    @property
    def owner_url(self) -> str:
        """Of an administrator, in the same database: for what the test itself asks in a crowd."""
        return f"mariadb://root@{HOST}:{self.port}/fleet"

    def sql(self, statement: str, *params: Any) -> list[Any]:
        """As an administrator, outside of a transaction."""
        with self._connect("root") as connection, connection.cursor() as cursor:
            cursor.execute(statement, params or None)
            return list(cursor.fetchall())

    def _connect(self, user: str) -> pymysql.Connection[Any]:
        return pymysql.connect(host=HOST, port=self.port, user=user, autocommit=True, connect_timeout=5)

    def connections(self) -> int:
        """Open ones of the fleet."""
        asked = "SELECT count(*) FROM information_schema.processlist WHERE user = 'fleet' AND db = 'fleet'"
        return int(self.sql(asked)[0][0])

    # -- faults ---------------------------------------------------------------

    def send_off(self) -> None:
        """As by an administrator: every connection of the fleet ends."""
        for (id,) in self.sql("SELECT id FROM information_schema.processlist WHERE db = 'fleet'"):
            with contextlib.suppress(pymysql.MySQLError):  # it has gone by itself
                self.sql("KILL %s", id)

    @contextmanager
    def crowded(self) -> Iterator[int]:
        """Others take every connection that is left; how many they took."""
        taken: list[pymysql.Connection[Any]] = []
        try:
            while self._takes_another(taken):
                pass
            yield len(taken)
        finally:
            for connection in taken:
                connection.close()

    def _takes_another(self, taken: list[pymysql.Connection[Any]]) -> bool:
        try:
            taken.append(self._connect("fleet"))
        except pymysql.MySQLError as exc:
            if exc.args[0] != ER.CON_COUNT_ERROR:
                raise
            return False
        return True
