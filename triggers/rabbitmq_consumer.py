"""One connection to RabbitMQ with one consumer on it, in a thread of its own.

The thread does nothing but AMQP: heartbeats go on while functions run, however long these take.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from pika.adapters.select_connection import IOLoop

from millstream.amqp.address import Address
from millstream.amqp.faults import fault, quiet
from millstream.amqp.wire import Connection, Properties
from millstream.contract.clock import Clock
from millstream.contract.errors import InvalidConfiguration, Problem, SourceUnavailable
from millstream.contract.records import Record
from millstream.triggers.rabbitmq_messages import STREAM_OFFSET, RecordMaker
from millstream.triggers.rabbitmq_tags import Tags

logger = logging.getLogger(__name__)

_Fault: TypeAlias = InvalidConfiguration | SourceUnavailable


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a consumer asks the broker for."""

    address: Address
    queue: str
    prefetch: int  # records that the broker sends ahead of their acknowledgement
    requeue: bool  # what is returned goes back to the queue; else to its dead-letter exchange
    purpose: str  # names the connection and the consumer in the broker's own lists


class Consumer:
    """Hands over what a connection brings, and settles it there.

    opening ──► consuming ──┬─ cancelled by the broker ──► consuming again, or over
       └────────────────────┴─ lost, refused, closed ────► over, with the fault

    A record's number is its delivery tag added to `base`, the last number of the connection before:
    so no tag of an older channel is ever taken for one of this. `changed` is called in the event
    loop, after anything has happened that was waited for.
    """

    def __init__(
        self, asked: Subscription, maker: RecordMaker, base: int, clock: Clock, changed: Callable[[], None]
    ) -> None:
        quiet()
        self.fault: _Fault | None = None  # why it is over
        self.opened = False
        self.over = False
        self.base = base
        self.last = base  # number of the newest record
        self._asked = asked
        self._maker = maker
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._changed = changed
        self._parameters = asked.address.parameters(asked.purpose)
        self._inbox: deque[Record] = deque()
        self._wanted = 0  # records that somebody waits for. 0: nobody waits
        self._tags = Tags()
        self._guard = threading.Lock()  # over `over`, so that no callback goes to a loop that has ended
        self._io = IOLoop()
        self._connection: Any = None
        self._channel: Any = None

    # ---- called in the event loop

    def start(self) -> None:
        """Connect, in the thread."""
        name = f"rabbitmq-{self._asked.queue}"
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def __len__(self) -> int:
        """Records that wait."""
        return 0 if self.over else len(self._inbox)

    def want(self, count: int) -> bool:
        """Ask to be told once so many records wait. False: they do already, or never will."""
        self._wanted = count
        return len(self) < count and not self.over

    def take(self, limit: int) -> list[Record]:
        """Up to `limit` records that wait; those of a lost connection come again on the next one."""
        self._wanted = 0
        return [] if self.over else [self._inbox.popleft() for _ in range(min(limit, len(self._inbox)))]

    def settle(self, done: Sequence[int], returned: Sequence[int], pause_s: float) -> None:
        """Acknowledge records by their numbers; give others back after a pause."""
        self._call(partial(self._settle, done, returned, pause_s))

    def ask_depth(self, answer: asyncio.Future[int]) -> None:
        """Let `answer` be what waits on the queue at the broker."""
        self._call(partial(self._ask_depth, answer))

    def close(self) -> None:
        """End once what was settled is sent; does not wait."""
        self._call(self._close)

    def abort(self) -> None:
        """End whatever the broker does; does not wait."""
        self._call(self._abort)

    def _call(self, callback: Callable[[], None]) -> None:
        with self._guard:
            if not self.over:
                self._io.add_callback_threadsafe(callback)

    # ---- called in the thread

    def _run(self) -> None:
        try:
            self._connection = Connection(
                self._parameters, self._on_open, self._on_failed, self._on_failed, custom_ioloop=self._io
            )
            self._io.start()
        finally:
            with self._guard:
                self.over = True
            if self.fault is None:
                self.fault = fault(None, self._asked.address, self._asked.queue)
            self._io.close()
            self._tell()

    def _on_open(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Any) -> None:
        self._channel = channel
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_cancel_callback(self._on_cancelled)
        channel.basic_qos(prefetch_count=self._asked.prefetch, callback=self._consume)

    def _consume(self, _: object) -> None:
        self._channel.basic_consume(
            self._asked.queue,
            self._on_message,
            consumer_tag=self._asked.purpose,
            callback=self._on_consuming,
        )

    def _on_consuming(self, _: object) -> None:
        self.opened = True
        self._tell()

    def _on_cancelled(self, _: object) -> None:
        """The queue was deleted, or its node went away: asking for it again tells which."""
        logger.warning("consumer cancelled by the broker", extra={"queue": self._asked.queue})
        self._consume(None)

    def _on_channel_closed(self, _: object, reason: BaseException) -> None:
        self._fail(fault(reason, self._asked.address, self._asked.queue))

    def _on_failed(self, _: object, reason: BaseException) -> None:
        """The connection is closed, or could not be opened."""
        if self.fault is None:
            self.fault = fault(reason, self._asked.address, self._asked.queue)
        self._io.stop()

    def _fail(self, why: _Fault) -> None:
        if self.fault is None:
            self.fault = why
        self._close()

    def _close(self) -> None:
        if self._connection.is_open:
            self._connection.close()
        elif not self._connection.is_closing:
            self._abort()

    def _abort(self) -> None:
        if not self._connection.is_closed:
            self._connection.abort()

    def _on_message(self, _: object, method: Any, properties: Properties, body: bytes) -> None:
        if properties.headers and STREAM_OFFSET in properties.headers:
            wanted = "a classic or a quorum queue, as RabbitMqStream reads streams"
            self._fail(
                InvalidConfiguration([Problem("", "queue", wanted, f"the stream {self._asked.queue}")])
            )
            return
        number = self.base + method.delivery_tag
        self.last = number
        record = self._maker.record(number, method.redelivered, properties, body, self._clock.now())
        self._inbox.append(record)
        if 0 < self._wanted <= len(self._inbox):
            self._wanted = 0
            self._tell()

    def _settle(self, done: Sequence[int], returned: Sequence[int], pause_s: float) -> None:
        if returned and self._asked.requeue and pause_s:
            self._io.call_later(pause_s, partial(self._settle, (), returned, 0.0))
        elif self._channel.is_open:
            for tag, multiple in self._tags.settle(number - self.base for number in returned):
                self._channel.basic_nack(tag, multiple, self._asked.requeue)
        if self._channel.is_open:
            for tag, multiple in self._tags.settle(number - self.base for number in done):
                self._channel.basic_ack(tag, multiple)

    def _ask_depth(self, answer: asyncio.Future[int]) -> None:
        if self._channel.is_open:
            self._channel.queue_declare(
                self._asked.queue, passive=True, callback=partial(self._on_depth, answer)
            )

    def _on_depth(self, answer: asyncio.Future[int], declared: Any) -> None:
        self._tell(partial(_answer, answer, int(declared.method.message_count)))

    def _tell(self, what: Callable[[], None] | None = None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(what or self._changed)


def _answer(future: asyncio.Future[int], value: int) -> None:
    if not future.done():
        future.set_result(value)
