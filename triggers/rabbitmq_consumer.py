"""Consumes a RabbitMQ queue over one connection: what it brings waits here, and is settled there."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from millstream.amqp.address import Address
from millstream.amqp.connection import ConnectionThread, answer
from millstream.amqp.faults import fault
from millstream.amqp.wire import Properties
from millstream.contract.clock import Clock
from millstream.contract.errors import InvalidConfiguration, Problem, SourceUnavailable
from millstream.contract.records import Record
from millstream.triggers.rabbitmq_messages import DELIVERY_COUNT, STREAM_OFFSET, UNCOUNTED, RecordMaker
from millstream.triggers.rabbitmq_tags import Tags

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a consumer asks the broker for."""

    address: Address
    queue: str
    prefetch: int  # records that the broker sends ahead of their acknowledgement
    requeue: bool  # what is returned goes back to the queue; else to its dead-letter exchange
    purpose: str  # names the connection and the consumer in the broker's own lists
    most_deliveries: int = 0  # of a record, before it is given up. 0: no limit


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
        self.opened = False
        self.base = base
        self.last = base  # number of the newest record
        self._asked = asked
        self._maker = maker
        self._clock = clock
        self._changed = changed
        self._thread = ConnectionThread(asked.address, asked.purpose, self._on_channel, changed)
        self._channel: Any = None
        self._inbox: deque[Record] = deque()
        self._wanted = 0  # records that somebody waits for. 0: nobody waits
        self._tags = Tags()
        self._misused: InvalidConfiguration | None = None
        self._warned = False

    # ---- called in the event loop

    def start(self) -> None:
        """Connect."""
        self._thread.start()

    @property
    def over(self) -> bool:
        """True once the connection is gone; the records that wait are then the broker's again."""
        return self._thread.over

    @property
    def fault(self) -> InvalidConfiguration | SourceUnavailable:
        """Why it is over."""
        return self._misused or fault(self._thread.error, self._asked.address, self._asked.queue)

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
        return [self._inbox.popleft() for _ in range(min(limit, len(self)))]

    def settle(self, done: Sequence[int], returned: Sequence[int], pause_s: float) -> None:
        """Acknowledge records by their numbers; give others back after a pause."""
        self._thread.call(partial(self._settle, done, returned, pause_s))

    def ask_depth(self, depth: asyncio.Future[int]) -> None:
        """Let `depth` be what waits on the queue at the broker."""
        self._thread.call(partial(self._ask_depth, depth))

    async def aclose(self) -> None:
        """End once what was settled is sent, and within a second."""
        await self._thread.aclose()

    # ---- called in the connection's thread

    def _on_channel(self, channel: Any) -> None:
        self._channel = channel
        channel.connection.on_delivery = self._on_delivery
        channel.add_on_cancel_callback(self._on_cancelled)
        channel.basic_qos(prefetch_count=self._asked.prefetch, callback=self._consume)

    def _consume(self, _: object) -> None:
        queue, tag = self._asked.queue, self._asked.purpose
        self._channel.basic_consume(queue, self._on_message, consumer_tag=tag, callback=self._on_consuming)

    def _on_consuming(self, _: object) -> None:
        self.opened = True
        self._thread.tell(self._changed)

    def _on_cancelled(self, _: object) -> None:
        """The queue was deleted, or its node went away: asking for it again tells which."""
        logger.warning("consumer cancelled by the broker", extra={"queue": self._asked.queue})
        self._consume(None)

    def _on_message(self, _: object, method: Any, properties: Properties, body: bytes) -> None:
        self._on_delivery(method.delivery_tag, method.redelivered, properties, body)

    def _on_delivery(self, tag: int, redelivered: bool, properties: Properties, body: bytes) -> None:
        if properties.headers and STREAM_OFFSET in properties.headers:
            wanted = "a classic or a quorum queue, as RabbitMqStream reads streams"
            problem = Problem("", "queue", wanted, f"the stream {self._asked.queue}")
            self._misused = InvalidConfiguration([problem])
            self._thread.end()
            return
        self.last = self.base + tag
        now = self._clock.now()
        record = self._maker.record(self.last, redelivered, properties, body, now)
        if redelivered and self._asked.most_deliveries > UNCOUNTED == record.delivery_count:
            self._warn_of_uncounted(properties)
        self._inbox.append(record)
        if 0 < self._wanted <= len(self._inbox):
            self._wanted = 0
            self._thread.tell(self._changed)

    def _warn_of_uncounted(self, properties: Properties) -> None:
        if not self._warned and DELIVERY_COUNT not in (properties.headers or {}):
            self._warned = True
            logger.warning(
                "queue counts no deliveries: what fails is tried again without end",
                extra={"queue": self._asked.queue, "maximum_retry_attempts": self._asked.most_deliveries - 1},
            )

    def _settle(self, done: Sequence[int], returned: Sequence[int], pause_s: float) -> None:
        if returned and self._asked.requeue and pause_s:
            self._thread.later(pause_s, partial(self._settle, (), returned, 0.0))
        elif self._channel.is_open:
            for tag, multiple in self._tags.settle(number - self.base for number in returned):
                self._channel.basic_nack(tag, multiple, self._asked.requeue)
        if self._channel.is_open:
            for tag, multiple in self._tags.settle(number - self.base for number in done):
                self._channel.basic_ack(tag, multiple)

    def _ask_depth(self, depth: asyncio.Future[int]) -> None:
        def declared(frame: Any) -> None:
            self._thread.tell(answer(depth, int(frame.method.message_count)))

        if self._channel.is_open:
            self._channel.queue_declare(self._asked.queue, passive=True, callback=declared)
