"""Keeps state in one SQLite file: one process writes, others may read at the same time."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import LeaseLost, StateUnavailable
from millstream.contract.ports import Lease, MappingRow, MappingStatus
from millstream.contract.records import Checkpoint, Position
from millstream.store.migrations import SCHEMA_VERSION, migrate

BUSY_S = 5.0
"""How long a call waits for another process's lock; only a migration or a closing daemon holds one long."""

T = TypeVar("T")

_ROW = ", ".join(field.name for field in fields(MappingRow))
_STATUS = ", ".join(field.name for field in fields(MappingStatus))

_PUT_MAPPING = f"""
    INSERT INTO mappings ({_ROW}) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (app, function, kind, source)
    DO UPDATE SET enabled = excluded.enabled, last_modified = excluded.last_modified
    RETURNING {_ROW}
"""

_PUT_STATUS = f"""
    INSERT OR REPLACE INTO statuses ({_STATUS})
    SELECT {", ".join("?" * len(fields(MappingStatus)))}
    WHERE EXISTS (SELECT 1 FROM mappings WHERE uuid = ?)
"""

_COMMIT = """
    INSERT INTO cursors (mapping, partition, position, epoch)
    SELECT :mapping, :partition, :position, :epoch
    WHERE EXISTS (SELECT 1 FROM mappings WHERE uuid = :mapping)
    ON CONFLICT (mapping, partition)
    DO UPDATE SET position = excluded.position, epoch = excluded.epoch WHERE excluded.epoch >= epoch
"""

_DELETE = (
    "DELETE FROM cursors WHERE mapping = ?",
    "DELETE FROM statuses WHERE uuid = ?",
    "DELETE FROM mappings WHERE uuid = ?",
)


class SqliteStore:
    """Implements StateStore. The file is opened, and made or migrated, by the first call.

    All calls run one after another in one thread, so that writes never wait for each other's locks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writable = True
        self._thread = BlockingClient("state", 1)
        self._connection: sqlite3.Connection | None = None  # the thread's own
        self._closed = False

    @classmethod
    def read_only(cls, path: Path) -> Self:
        """The store as it is, beside a daemon that writes it or without one; a write raises."""
        store = cls(path)
        store._writable = False
        return store

    async def put_mapping(self, row: MappingRow) -> MappingRow:
        return await self._call(lambda db: _mapping(db.execute(_PUT_MAPPING, astuple(row)).fetchone()))

    async def mappings(self) -> Sequence[MappingRow]:
        query = f"SELECT {_ROW} FROM mappings ORDER BY app, function, kind, source"
        return await self._call(lambda db: [_mapping(row) for row in db.execute(query)])

    async def delete_mapping(self, uuid: str) -> None:
        def delete(db: sqlite3.Connection) -> None:
            for statement in _DELETE:
                db.execute(statement, (uuid,))

        await self._call(delete)

    async def put_status(self, statuses: Sequence[MappingStatus]) -> None:
        """Write the newest status of several mappings at once; that of a forgotten mapping is dropped."""
        rows = [(*astuple(status), status.uuid) for status in statuses]
        await self._call(lambda db: db.executemany(_PUT_STATUS, rows))

    async def statuses(self) -> Sequence[MappingStatus]:
        query = f"SELECT {_STATUS} FROM statuses ORDER BY uuid"
        return await self._call(lambda db: [MappingStatus(*row) for row in db.execute(query)])

    async def cursor(self, lease: Lease) -> Position | None:
        query = "SELECT position FROM cursors WHERE mapping = ? AND partition = ?"
        where = (lease.mapping, lease.partition)
        found = await self._call(lambda db: db.execute(query, where).fetchone())
        return None if found is None else Position(found[0])

    async def commit(self, lease: Lease, checkpoint: Checkpoint) -> None:
        """Move the cursor, unless a lease with a greater epoch did, or the mapping was deleted.

        Raises:
            LeaseLost: one of these happened.
            ValueError: the checkpoint is of another partition than the lease.
        """
        if checkpoint.partition != lease.partition:
            raise ValueError(f"a checkpoint of {checkpoint.partition} under a lease of {lease.partition}")
        values = {
            "mapping": lease.mapping,
            "partition": lease.partition,
            "position": checkpoint.position,
            "epoch": lease.epoch,
        }
        if await self._call(lambda db: db.execute(_COMMIT, values).rowcount) == 0:
            raise LeaseLost(f"{lease.mapping} {lease.partition}: epoch {lease.epoch} is over")

    async def aclose(self) -> None:
        """Close the file after the calls that were made; calls after this one raise RuntimeError."""
        if not self._closed:
            self._closed = True
            await self._thread.call(self._close)
            self._thread.close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    async def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._thread.call(self._transaction, work)

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with state_errors(self._path):
            db = self._connection = self._connection or self._open()
            db.execute("BEGIN IMMEDIATE" if self._writable else "BEGIN")
            try:
                answer = work(db)
                db.execute("COMMIT")
            finally:
                if db.in_transaction:  # not after some faults, for which SQLite itself rolls back
                    db.execute("ROLLBACK")
            return answer

    def _open(self) -> sqlite3.Connection:
        db = self._connect("rwc" if self._writable else "ro")
        try:
            if self._writable:
                db.execute("PRAGMA journal_mode = WAL")
                # Once COMMIT has returned, NORMAL keeps it through kill -9 of this process, but a crash of
                # the host may undo the last ones; FULL, which syncs the log at each, keeps it through both.
                db.execute("PRAGMA synchronous = FULL")
                if (version := self._version(db)) < SCHEMA_VERSION:
                    migrate(db, version)
            else:
                db = self._readable(db)
                self._version(db)
        except BaseException:
            db.close()
            raise
        return db

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


@contextmanager
def state_errors(path: Path) -> Iterator[None]:
    """Turns SQLite's faults into ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise StateUnavailable(f"{path}: wanted a usable state database, found: {error}") from error


def _mapping(row: Any) -> MappingRow:
    uuid, app, function, kind, source, enabled, last_modified = row
    return MappingRow(uuid, app, function, kind, source, bool(enabled), last_modified)
