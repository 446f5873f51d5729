"""Keeps state in one SQLite file: one process writes, others may read at the same time."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import StateUnavailable
from millstream.store.database import Session, Values
from millstream.store.migrations import SCHEMA_VERSION, migrate
from millstream.store.sql_store import SqlStore

BUSY_S = 5.0
"""How long a call waits for another process's lock; only a migration or a closing daemon holds one long."""
BUSY_PAUSE_S = 0.01
"""Seconds until a lock is tried again for which SQLite itself does not wait."""

T = TypeVar("T")

# unixepoch('subsec') came with SQLite 3.42, which Debian 12 does not have. This one counts milliseconds.
_NOW_S = "((julianday('now') - 2440587.5) * 86400.0)"


class SqliteStore(SqlStore):
    """Implements StateStore. The file is opened, and made or migrated, by the first call.

    All calls run one after another in one thread, so that writes never wait for each other's locks.
    """

    def __init__(self, path: Path, *, writable: bool = True) -> None:
        super().__init__(SqliteDatabase(path, writable))

    @classmethod
    def read_only(cls, path: Path) -> Self:
        """The store as it is, beside a daemon that writes it or without one; a write raises."""
        return cls(path, writable=False)


class SqliteDatabase:
    """Implements Database."""

    def __init__(self, path: Path, writable: bool) -> None:
        self._path = path
        self._writable = writable
        self._thread = BlockingClient("state", 1)
        self._connection: sqlite3.Connection | None = None  # the thread's own
        self._closed = False

    async def one(self, statement: str, values: Values) -> list[tuple[Any, ...]]:
        return await self.run(lambda session: session.rows(statement, values))

    async def run(self, work: Callable[[Session], T]) -> T:
        return await self._thread.call(self._transaction, work)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await self._thread.call(self._close)
            self._thread.close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _transaction(self, work: Callable[[Session], T]) -> T:
        with state_errors(self._path):
            db = self._connection = self._connection or self._open()
            with self._begun(db):
                return work(SqliteSession(db))

    @contextmanager
    def _begun(self, db: sqlite3.Connection) -> Iterator[None]:
        db.execute("BEGIN IMMEDIATE" if self._writable else "BEGIN")
        try:
            yield
            db.execute("COMMIT")
        finally:
            if db.in_transaction:  # not after some faults, for which SQLite itself rolls back
                db.execute("ROLLBACK")

    def _open(self) -> sqlite3.Connection:
        db = self._connect("rwc" if self._writable else "ro")
        try:
            if self._writable:
                self._prepare(db)
            else:
                db = self._readable(db)
                self._version(db)
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        _write_ahead(db)
        if self._version(db) < SCHEMA_VERSION:
            with self._begun(db):
                migrate(db, self._version(db))  # asked anew: another process may have come first
        # Once COMMIT has returned, NORMAL keeps it through kill -9 of this process, but a crash of
        # the host may undo the last ones; FULL, which syncs the log at each, keeps it through both.
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")  # not before the migration, which drops tables

    def _version(self, db: sqlite3.Connection) -> int:
        (found,) = db.execute("PRAGMA user_version").fetchone()
        if found > SCHEMA_VERSION:
            wanted = f"wanted schema {SCHEMA_VERSION} or older"
            raise StateUnavailable(f"{self._path}: {wanted}, found {found}, of a newer millstream")
        if found < SCHEMA_VERSION and not self._writable:
            wanted = f"wanted schema {SCHEMA_VERSION}"
            raise StateUnavailable(f"{self._path}: {wanted}, found {found}; `millstream run` brings it up")
        return int(found)

    def _readable(self, db: sqlite3.Connection) -> sqlite3.Connection:
        """The connection, or another that needs no files beside the database's."""
        try:
            db.execute("PRAGMA user_version")
        except sqlite3.OperationalError:
            # SQLite wants to make files beside the database, and the folder is not ours to write. Without a
            # log there is no writer, and the file alone is the whole state.
            if not self._path.exists() or self._path.with_name(f"{self._path.name}-wal").exists():
                raise
            db.close()
            return self._connect("ro&immutable=1")
        return db

    def _connect(self, mode: str) -> sqlite3.Connection:
        uri = f"file:{quote(str(self._path.absolute()))}?mode={mode}"
        return sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)


class SqliteSession:
    """Implements Session."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, statement: str, values: Values) -> list[tuple[Any, ...]]:
        return self._connection.execute(_dialect(statement), values).fetchall()

    def many(self, statement: str, values: Sequence[Values]) -> list[int]:
        text = _dialect(statement)
        return [self._connection.execute(text, each).rowcount for each in values]


def _write_ahead(db: sqlite3.Connection) -> None:
    """Switches the file to a write-ahead log.

    SQLite reads the file before it takes the lock for this, and gives up at once where another process
    holds the lock: to wait there could be a deadlock. So we let go of everything and try again.
    """
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(BUSY_PAUSE_S)


@contextmanager
def state_errors(path: Path) -> Iterator[None]:
    """Turns SQLite's faults into ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise StateUnavailable(f"{path}: wanted a usable state database, found: {error}") from error


def _dialect(statement: str) -> str:
    return statement.replace("here.", "").replace("now_s()", _NOW_S)
