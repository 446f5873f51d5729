"""Keeps state in PostgreSQL, for daemons on several hosts that share their mappings' partitions.

See docs/adr/0005-postgresql.md for why it is one connection in one thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Protocol, Self, TypeVar

from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import StateUnavailable
from millstream.store.database import Session, Values
from millstream.store.sql_store import SqlStore

ANSWER_S = 20.0
"""How long a call waits in all: for those before it, for a connection, for its statements."""

CLOSE_S = 5.0
"""How long closing waits for the calls before it."""

T = TypeVar("T")


class PostgresStore(SqlStore):
    """Implements StateStore. Connects, and makes or migrates its schema, at the first call.

    `url` is libpq's: `postgresql://user@host:5432/database?sslmode=verify-full`. What it leaves out
    comes from libpq's own places, such as ~/.pgpass. It is never part of a message.
    """

    def __init__(self, url: str, *, writable: bool = True) -> None:
        super().__init__(PostgresDatabase(url, writable))

    @classmethod
    def read_only(cls, url: str) -> Self:
        """The store as it is, beside the daemons that write it; a write raises."""
        return cls(url, writable=False)


class PostgresDatabase:
    """Implements Database."""

    def __init__(self, url: str, writable: bool) -> None:
        self._url = url
        self._writable = writable
        self._thread = BlockingClient("state", 1)
        self._server: _Server | None = None  # the thread's own
        self._closed = False

    async def one(self, statement: str, values: Values) -> list[tuple[Any, ...]]:
        return await self._answer(lambda: self._opened().one(statement, values))

    async def run(self, work: Callable[[Session], T]) -> T:
        return await self._answer(lambda: self._opened().run(work))

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._thread.call(self._close)
        except TimeoutError:
            pass  # a server that does not answer holds nobody's exit; the kernel closes the socket
        finally:
            self._thread.close()

    async def _answer(self, call: Callable[[], T]) -> T:
        given_up = threading.Event()

        def work() -> T:
            if given_up.is_set():  # or a long outage would leave a long queue of what nobody waits for
                raise StateUnavailable("PostgreSQL: wanted no answer any more")
            return call()

        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._thread.call(work)
        except TimeoutError:
            given_up.set()
            raise StateUnavailable(
                f"PostgreSQL: wanted an answer within {ANSWER_S:g} s, found none"
            ) from None

    def _opened(self) -> _Server:
        if self._server is None:
            self._server = _server(self._url, self._writable)
        return self._server

    def _close(self) -> None:
        if self._server is not None:
            self._server.close()


class _Server(Protocol):
    def one(self, statement: str, values: Values) -> list[tuple[Any, ...]]: ...

    def run(self, work: Callable[[Session], T]) -> T: ...

    def close(self) -> None: ...


def _server(url: str, writable: bool) -> _Server:
    """Imported late: psycopg is an extra, and costs a start without it nothing."""
    try:
        from millstream.store.postgres_server import PostgresServer
    except ImportError as error:
        why = "wanted the package psycopg, found none; pip install 'millstream[postgres]'"
        raise StateUnavailable(f"PostgreSQL: {why}") from error
    return PostgresServer(url, writable)
