"""One connection to a PostgreSQL server, made anew after the server was away."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
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

# Of a session, or of one transaction.
_SETTINGS = """
    SET {scope} synchronous_commit = on;
    SET {scope} statement_timeout = '{timeout_ms:.0f}ms';
    SET {scope} idle_in_transaction_session_timeout = '{timeout_ms:.0f}ms';
"""

_SESSION = b"SET default_transaction_isolation = 'read committed'"

_READ_ONLY = b"SET default_transaction_read_only = on"

# Another daemon's transaction came first; done again, ours sees what it did.
_LOST_RACE = (DeadlockDetected, SerializationFailure, ForeignKeyViolation)

_NOW_S = "extract(epoch FROM clock_timestamp())::float8"


class PostgresServer:
    """Blocking; for one thread. A connection that failed is dropped: the next call makes another.

    What a call does may be done twice where the connection broke on COMMIT, which no call of StateStore
    minds: each sets what it says, under the same lease.

    Behind a pooler, which may give each transaction another session, and ours to others, nothing is left in a
    session: each call is a transaction with its own settings, and nothing is prepared.
    """

    def __init__(self, url: str, writable: bool) -> None:
        self._parameters = _DEFAULTS | _parsed(url)
        self._where = _where(self._parameters)
        self._writable = writable
        if writable:
            self._parameters.setdefault("target_session_attrs", "read-write")
        self._connection: Connection | None = None
        self._pooled = False

    def one(self, statement: str, values: Values) -> list[tuple[Any, ...]]:
        """The rows of one statement; without BEGIN and COMMIT it is one trip to the server and not three."""

        def alone(connection: Connection) -> list[tuple[Any, ...]]:
            with self._transaction(connection) if self._pooled else nullcontext():
                return PostgresSession(connection).rows(statement, values)

        return self._tried(alone)

    def run(self, work: Callable[[Session], T]) -> T:
        """The answer of `work`, done in one transaction."""

        def transaction(connection: Connection) -> T:
            with self._transaction(connection):
                return work(PostgresSession(connection))

        return self._tried(transaction)

    def close(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _transaction(self, connection: Connection) -> Iterator[None]:
        with connection.transaction():
            if self._pooled:
                connection.execute(_settings("LOCAL"))
            yield

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
            self._set_up(connection)
            if self._version(connection) < SCHEMA_VERSION:
                with connection.transaction():
                    migrate(connection, self._version)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_up(self, connection: Connection) -> None:
        self._pooled = pooled(connection)
        if self._pooled:
            connection.prepare_threshold = None
            connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
            connection.read_only = not self._writable
            return
        connection.execute(_settings("SESSION"))
        connection.execute(_SESSION)
        if not self._writable:
            connection.execute(_READ_ONLY)

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


def pooled(connection: Connection) -> bool:
    """True if a pooler stands between: it gives out numbers of its own for the processes of the server.

    Source: PgBouncer, Odyssey and others answer cancel requests, which carry that number, themselves.
    """
    (process,) = connection.execute("SELECT pg_backend_pid()").fetchone() or (None,)
    return bool(process != connection.info.backend_pid)


def _settings(scope: str) -> bytes:
    return _SETTINGS.format(scope=scope, timeout_ms=STATEMENT_S * 1000).encode()


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
    named = re.sub(r":(\w+)", r"%(\1)s", statement)
    return named.replace("here.", "millstream.").replace("now_s()", _NOW_S).encode()
