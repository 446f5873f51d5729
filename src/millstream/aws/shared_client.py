"""A client that the calls of one mapping share, each in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import SourceUnavailable

T = TypeVar("T")


class SharedClient:
    """Owns a client and what its calls use besides; all is closed once no call may use it and none does."""

    def __init__(self, client: Any, name: str, threads: BlockingClient, *others: Any) -> None:
        self._client = client
        self._others = others
        self._name = name  # of the source, for errors
        self._threads = threads
        self._lock = threading.Lock()
        self._users = 0
        self._closed = False

    async def call(self, work: Callable[[Any], T]) -> T:
        """Return what `work` makes of the client, in a thread. What it raises is raised.

        Raises:
            SourceUnavailable: closed, or this host has no thread for it now.
        """
        if self._closed:
            raise SourceUnavailable(f"{self._name}: closed")
        try:
            return await self._threads.call(self._work, work)
        except RuntimeError as error:  # this host can have no further thread now
            raise SourceUnavailable(f"{self._name}: {error}") from error

    def _work(self, work: Callable[[Any], T]) -> T:
        with self.client() as client:
            return work(client)

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Give threads the client, which is not closed meanwhile.

        Raises:
            SourceUnavailable: closed.
        """
        with self._lock:
            if self._closed:
                raise SourceUnavailable(f"{self._name}: closed")
            self._users += 1
        try:
            yield self._client
        finally:
            with self._lock:
                self._users -= 1
            self._close_if_unused()

    def close(self) -> None:
        """Let calls end that are in flight, and take no more."""
        with self._lock:
            self._closed = True
        self._threads.close()
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        with self._lock:
            if self._closed and not self._users:
                for client in (self._client, *self._others):
                    client.close()
