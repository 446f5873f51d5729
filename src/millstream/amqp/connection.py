"""A connection to RabbitMQ in a thread of its own, which does nothing but AMQP.

Heartbeats go on whatever the event loop is busy with, and names are looked up in threads that end.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from pika.adapters.select_connection import IOLoop

from millstream.amqp.address import Address
from millstream.amqp.deliveries import Connection
from millstream.amqp.faults import quiet

logger = logging.getLogger(__name__)

CLOSED_WITHIN_S = 0.8
"""How long the end may take: half of it in the broker's way, and half of it in ours."""


class ConnectionThread:
    """One connection with one channel on it.

    opening ── `on_channel`, in the thread ──► open ──► over ── `on_over`, in the event loop

    The thread alone touches the connection: all else goes through `call`.

    Raises:
        Refused: the address has a `ca_file` that cannot be read.
    """

    def __init__(
        self, address: Address, purpose: str, on_channel: Callable[[Any], None], on_over: Callable[[], None]
    ) -> None:
        quiet()
        self.over = False
        self.error: BaseException | None = None  # why it is over. None: nobody knows
        self._name = f"rabbitmq-{purpose}"
        self._parameters = address.parameters(purpose)
        self._on_channel = on_channel
        self._on_over = on_over
        self._loop = asyncio.get_running_loop()
        self._gone = asyncio.Event()
        self._guard = threading.Lock()  # over `over`, so that no call goes to an I/O loop that has ended
        self._io = IOLoop()
        self._connection: Any = None

    def start(self) -> None:
        """Connect, in the thread. Where none is to be had, the connection is over."""
        try:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        except RuntimeError as error:
            logger.warning("no thread for a connection", extra={"connection": self._name, "why": str(error)})
            self.error = error
            self._ended()

    def call(self, work: Callable[[], None]) -> bool:
        """Have the thread do something, in the order of the calls. False: it is over."""
        with self._guard:
            if not self.over:
                self._io.add_callback_threadsafe(work)
            return not self.over

    async def aclose(self) -> None:
        """End once what was called before is done, and within a second whatever the broker does."""
        for end in (self.end, self._cut_off):
            if self.call(end):
                with suppress(TimeoutError):
                    async with asyncio.timeout(CLOSED_WITHIN_S / 2):
                        await self._gone.wait()

    # ---- called in the thread

    def later(self, wait_s: float, work: Callable[[], None]) -> None:
        """Do something after a while, if the connection lasts until then."""
        self._io.call_later(wait_s, work)

    def tell(self, work: Callable[[], None]) -> None:
        """Have the event loop do something."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(work)

    def end(self, error: BaseException | None = None) -> None:
        """Close the connection, because of an error or because nobody needs it any more."""
        if self.error is None:
            self.error = error
        if self._connection.is_open:
            self._connection.close()
        elif not self._connection.is_closing:
            self._cut_off()

    def _run(self) -> None:
        try:
            self._connection = Connection(
                self._parameters, self._on_open, self._on_end, self._on_end, custom_ioloop=self._io
            )
            self._io.start()
        except Exception as error:  # a fault of ours, or of pika's: it ends this connection alone
            logger.exception("connection failed", extra={"connection": self._name})
            self.error = self.error or error
            self._close_after_fault()
        finally:
            self._ended()

    def _ended(self) -> None:
        with self._guard:
            self.over = True
        self._io.close()
        self.tell(self._gone.set)
        self.tell(self._on_over)

    def _on_open(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._on_channel_open)

    def _on_channel_open(self, channel: Any) -> None:
        channel.add_on_close_callback(lambda _, reason: self.end(reason))
        self._on_channel(channel)

    def _on_end(self, _: object, reason: BaseException) -> None:
        """The connection is closed, or could not be opened."""
        if self.error is None:
            self.error = reason
        self._io.stop()

    def _close_after_fault(self) -> None:
        """Let pika close the socket, so that the broker has at once what is not settled."""
        if self._connection is not None and not self._connection.is_closed:
            with suppress(Exception):  # as it is in no known state
                self._io.call_later(CLOSED_WITHIN_S, self._io.stop)
                self._connection.abort()
                self._io.start()

    def _cut_off(self) -> None:
        if not self._connection.is_closed:
            self._connection.abort()


def answer(future: asyncio.Future[Any], value: Any) -> Callable[[], None]:
    """What gives a future its value or its error, if it still has none; for `ConnectionThread.tell`."""
    return partial(_answer, future, value)


def _answer(future: asyncio.Future[Any], value: Any) -> None:
    if future.done():
        return
    if isinstance(value, BaseException):
        future.set_exception(value)
    else:
        future.set_result(value)
