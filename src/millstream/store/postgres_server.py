"""One connection to a PostgreSQL server, made anew after the server was away."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import DeadlockDetected, ForeignKeyViolation, QueryCanceled, SerializationFailure

from millstream.contract.errors import StateUnavailable
from millstream.store.database import Session, Values
from millstream.store.postgres_schema import SCHEMA_VERSION, migrate, version_of

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

T = TypeVar("T")

ATTEMPTS = 4
"""How often a transaction is begun, where another daemon's got in its way or the connection was stale."""

STATEMENT_S = 5.0
"""How long one statement may take, waits for other daemons' locks included."""

# A URL's own parameters win. A host that vanished is noticed while a lease still lasts, or soon after.
_DEFAULTS: dict[str, str | int] = {
    "application_name": "millstream",
    "client_encoding": "UTF8",
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}

_SESSION = """
    SET search_path = millstream;
    SET synchronous_commit = on;
    SET statement_timeout = '{timeout_ms:.0f}ms';
    SET idle_in_transaction_session_timeout = '{timeout_ms:.0f}ms';
    SET default_transaction_isolation = 'read committed';
"""

_READ_ONLY = b"SET default_transaction_read_only = on"

# Another daemon's transaction came first; done again, ours sees what it did.
_LOST_RACE = (DeadlockDetected, SerializationFailure, ForeignKeyViolation)

_NOW_S = "extract(epoch FROM clock_timestamp())::float8"


class PostgresServer:
    """Blocking; for one thread. A connection that failed is dropped: the next call makes another.

    What a call does may be done twice where the connection broke on COMMIT, which no call of StateStore
    minds: each sets what it says, under the same lease.
    """

    def __init__(self, url: str, writable: bool) -> None:
        self._parameters = _DEFAULTS | _parsed(url)
        self._where = _where(self._parameters)
        self._writable = writable
        if writable:
            self._parameters.setdefault("target_session_attrs", "read-write")
        self._connection: Connection | None = None

    def one(self, statement: str, values: Values) -> list[tuple[Any, ...]]:
        """The rows of one statement; without BEGIN and COMMIT it is one trip to the server and not three."""
        return self._tried(lambda connection: PostgresSession(connection).rows(statement, values))

    def run(self, work: Callable[[Session], T]) -> T:
        """The answer of `work`, done in one transaction."""

        def transaction(connection: Connection) -> T:
            with connection.transaction():
                return work(PostgresSession(connection))

        return self._tried(transaction)

    def close(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _tried(self, work: Callable[[Connection], T]) -> T:
        with server_errors(self._where):
            for _ in range(ATTEMPTS - 1):
                stale = self._connection is not None
                try:
                    return self._once(work)
                except _LOST_RACE:
                    continue
                except QueryCanceled:
                    raise
                except (psycopg.OperationalError, psycopg.InternalError):
                    if not stale:
                        raise
            return self._once(work)

    def _once(self, work: Callable[[Connection], T]) -> T:
        if self._connection is None:
            self._connection = self._open()
        try:
            return work(self._connection)
        except _LOST_RACE:
            raise
        except psycopg.Error:
            self.close()
            raise

    def _open(self) -> Connection:
        connection = psycopg.connect(**self._parameters, autocommit=True)
        try:
            connection.execute(_SESSION.format(timeout_ms=STATEMENT_S * 1000).encode())
            if not self._writable:
                connection.execute(_READ_ONLY)
            if self._version(connection) < SCHEMA_VERSION:
                with connection.transaction():
                    migrate(connection, self._version)
        except BaseException:
            connection.close()
            raise
        return connection

    def _version(self, connection: Connection) -> int:
        found = version_of(connection)
        if found > SCHEMA_VERSION:
            wanted = f"wanted schema {SCHEMA_VERSION} or older"
            raise StateUnavailable(f"{self._where}: {wanted}, found {found}, of a newer millstream")
        if found < SCHEMA_VERSION and not self._writable:
            wanted = f"wanted schema {SCHEMA_VERSION}"
            raise StateUnavailable(f"{self._where}: {wanted}, found {found}; `millstream run` brings it up")
        return found


class PostgresSession:
    """Implements Session."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def rows(self, statement: str, values: Values) -> list[tuple[Any, ...]]:
        cursor = self._connection.execute(_dialect(statement), values)
        return cursor.fetchall() if cursor.description else []

    def many(self, statement: str, values: Sequence[Values]) -> list[int]:
        """Sent in one go, and not one waiting for the answer to the other."""
        touched: list[int] = []
        if values:
            with self._connection.cursor() as cursor:
                cursor.executemany(_dialect(statement), values, returning=True)
                touched = [each.rowcount for each in cursor.results()]
        return touched


@contextmanager
def server_errors(where: str) -> Iterator[None]:
    """Turns psycopg's faults into ours; of several lines it makes one."""
    try:
        yield
    except psycopg.Error as error:
        found = " ".join((error.diag.message_primary or str(error) or type(error).__name__).split())
        raise StateUnavailable(f"{where}: wanted a usable state database, found: {found}") from error


def _parsed(url: str) -> dict[str, Any]:
    """The parameters of a URL.

    A password with a bare `@` or `/` would make parts of itself a host, a port or a database, which
    messages name; such a URL is refused, and not quoted.
    """
    wanted = "wanted a URL as postgresql://user@host:5432/database, its special characters as %40"
    try:
        parameters = conninfo_to_dict(url)
    except psycopg.Error:
        raise StateUnavailable(f"PostgreSQL: {wanted}, found another") from None  # it may quote a password
    named = f"{parameters.get('host', '')} {parameters.get('dbname', '')}"
    ports = str(parameters.get("port") or "0").split(",")
    if "@" in named or not all(port.isdecimal() for port in ports):
        raise StateUnavailable(f"PostgreSQL: {wanted}, found a misplaced one")
    return dict(parameters)


def _where(parameters: dict[str, Any]) -> str:
    host, port = parameters.get("host", "localhost"), parameters.get("port", 5432)
    return f"PostgreSQL {host}:{port}/{parameters.get('dbname', '')}"


@lru_cache
def _dialect(statement: str) -> bytes:
    return re.sub(r":(\w+)", r"%(\1)s", statement).replace("now_s()", _NOW_S).encode()
