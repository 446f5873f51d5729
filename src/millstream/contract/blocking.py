"""Runs blocking client libraries in threads of their own: named, bounded, never in the way of exit.

`concurrent.futures` joins its threads at interpreter exit, which would hold a stopped daemon for as
long as a long poll lasts. These threads are daemonic: what they hold must be safe to lose.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeAlias, TypeVar

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_Job: TypeAlias = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class BlockingClient:
    """At most `threads` calls at once; started on demand; further calls wait their turn."""

    def __init__(self, name: str, threads: int) -> None:
        self._name = name
        self._limit = threads
        self._threads: list[threading.Thread] = []
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._closed = False

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The answer of `function(*args, **kwargs)`, run in a thread.

        A cancelled call goes on in its thread until the function returns; its answer is dropped.

        Raises:
            RuntimeError: `close` was called, or the host gives no thread and there is none yet.
        """
        if self._closed:
            raise RuntimeError(f"{self._name} is closed")
        if not self._idle.acquire(blocking=False) and len(self._threads) < self._limit:
            self._start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put((lambda: function(*args, **kwargs), loop, future))
        return await future

    def close(self) -> None:
        """Let each thread end after the call that it is in; does not wait."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)

    def _start(self) -> None:
        """Start a thread. Where none is to be had, a call waits for one that is there, or fails."""
        thread = threading.Thread(target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if not self._threads:
                raise
            logger.warning("no further thread to be had", extra={"client": self._name})
        else:
            self._threads.append(thread)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, loop, future = job
            try:
                answer, error = work(), None
            except BaseException as raised:  # noqa: BLE001  handed to the caller, who decides
                answer, error = None, raised
            self._idle.release()
            try:
                loop.call_soon_threadsafe(_finish, future, answer, error)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more
            del job, work, future, answer, error  # hold nothing while idle


def _finish(future: asyncio.Future[Any], answer: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(answer)
    else:
        future.set_exception(error)
