"""Consumes a RabbitMQ queue over one connection: what it brings waits here, and is settled there."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pika

from millstream.amqp.address import Address
from millstream.amqp.connection import ConnectionThread, answer
from millstream.amqp.faults import fault, is_not_implemented
from millstream.amqp.wire import Properties
from millstream.contract.clock import Clock
from millstream.contract.errors import InvalidConfiguration, Problem, Refused, SourceUnavailable
from millstream.contract.records import Record
from millstream.triggers.rabbitmq_deliveries import DeliveryWatch
from millstream.triggers.rabbitmq_messages import STREAM_OFFSET, RecordMaker
from millstream.triggers.rabbitmq_tags import Tags

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
"""How often the consumer looks for records that have waited for too long."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a consumer asks the broker for."""

    address: Address
    queue: str
    prefetch: int  # records that the broker sends ahead of their acknowledgement
    requeue: bool  # what is returned goes back to the queue; else to its dead-letter exchange
    purpose: str  # names the connection and the consumer in the broker's own lists
    fresh_s: float = math.inf  # for how long a record may wait here; then the queue has it back


@dataclass(frozen=True, slots=True)
class Settlement:
    """What becomes of records, by their numbers."""

    done: Sequence[int] = ()
    returned: Sequence[int] = ()
    rejected: Sequence[int] = ()


class Consumer:
    """Hands over what a connection brings, and settles it there.

    opening ──► consuming ──┬─ cancelled by the broker ──► consuming again, or over
       └────────────────────┴─ lost, refused, closed ────► over, with the fault

    A record's number is its delivery tag added to `base`, the last number of the connection before:
    so no tag of an older channel is ever taken for one of this. `changed` is called in the event
    loop, after anything has happened that was waited for.
    """

    def __init__(
        self,
        asked: Subscription,
        maker: RecordMaker,
        watch: DeliveryWatch,
        base: int,
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        self.opened = False
        self.base = base
        self.last = base  # number of the newest record
        self._asked = asked
        self._maker = maker
        self._watch = watch
        self._clock = clock
        self._changed = changed
        self._thread = ConnectionThread(asked.address, asked.purpose, self._on_channel, changed)
        self._channel: Any = None
        self._inbox: deque[Record] = deque()
        self._wanted = 0  # records that somebody waits for. 0: nobody waits
        # Of the thread:
        self._tags = Tags()
        self._is_stream: bool | None = None  # None: not known, and nothing looks like it
        self._doubtful: list[Record] | None = None  # what has come since something does. None: no question

    # ---- called in the event loop

    def start(self) -> None:
        """Connect."""
        self._thread.start()

    @property
    def over(self) -> bool:
        """True once the connection is gone; the records that wait are then the broker's again."""
        return self._thread.over

    @property
    def fault(self) -> InvalidConfiguration | Refused | SourceUnavailable:
        """Why it is over."""
        if self._doubtful is not None and is_not_implemented(self._thread.error):
            wanted = "a classic or a quorum queue, as RabbitMqStream reads streams"
            return InvalidConfiguration([Problem("", "queue", wanted, f"the stream {self._asked.queue}")])
        return fault(self._thread.error, self._asked.address, self._asked.queue)

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

    def settle(self, settlement: Settlement) -> None:
        """Acknowledge records, give others back, dead-letter others."""
        self._thread.call(partial(self._settle, settlement, self._asked.requeue))

    def ask_depth(self, depth: asyncio.Future[int]) -> None:
        """Let `depth` be what waits on the queue at the broker."""
        self._thread.call(partial(self._ask_depth, depth))

    async def aclose(self) -> None:
        """End once what was settled is sent, and within a second."""
        await self._thread.aclose()

    def _give_back_stale(self) -> None:
        """Give back what has waited for so long that its function might run beyond the broker's patience.

        Nobody has tried it: so it goes to its queue again, whatever becomes of what fails.
        """
        too_old_at = self._clock.now() - self._asked.fresh_s
        stale: list[int] = []
        while self._inbox and self._inbox[0].received_at <= too_old_at:
            stale.append(int(self._inbox.popleft().receipt))
        if stale:
            logger.warning(
                "messages waited for too long, they go back to their queue",
                extra={"queue": self._asked.queue, "messages": len(stale)},
            )
            self._thread.call(partial(self._settle, Settlement(returned=stale), True))

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
        if self._asked.fresh_s != math.inf:
            self._look_for_stale()

    def _look_for_stale(self) -> None:
        self._thread.later(min(LOOK_EVERY_S, self._asked.fresh_s), self._look_for_stale)
        if self._inbox:
            self._thread.tell(self._give_back_stale)

    def _on_cancelled(self, _: object) -> None:
        """The queue was deleted, or its node went away: asking for it again tells which."""
        logger.warning("consumer cancelled by the broker", extra={"queue": self._asked.queue})
        self._consume(None)

    def _on_message(self, _: object, method: Any, properties: Properties, body: bytes) -> None:
        self._on_delivery(method.delivery_tag, method.redelivered, properties, body)

    def _on_delivery(self, tag: int, redelivered: bool, properties: Properties, body: bytes) -> None:
        self.last = self.base + tag
        record = self._maker.record(self.last, redelivered, properties, body, self._clock.now())
        if redelivered:
            self._watch.look(properties, record.delivery_count)
        if self._is_stream is None and properties.headers and STREAM_OFFSET in properties.headers:
            self._ask_whether_stream()
        if self._doubtful is None:
            self._arrived([record])
        else:
            self._doubtful.append(record)

    def _arrived(self, records: Sequence[Record]) -> None:
        self._inbox.extend(records)
        if 0 < self._wanted <= len(self._inbox):
            self._wanted = 0
            self._thread.tell(self._changed)

    def _ask_whether_stream(self) -> None:
        """Find out whether a header is the broker's or a producer's: no message can be got from a stream."""
        if self._doubtful is None:
            self._doubtful = []
            self._channel.connection.channel(on_open_callback=self._get)

    def _get(self, channel: Any) -> None:
        channel.add_on_close_callback(self._on_not_got)
        channel.add_callback(partial(self._on_got, channel), [pika.spec.Basic.GetEmpty])
        channel.basic_get(self._asked.queue, self._on_got)

    def _on_got(self, channel: Any, method: Any, *_: object) -> None:
        """Take the queue for a queue; the message that was got to find that out goes back."""
        if isinstance(method, pika.spec.Basic.GetOk):
            channel.basic_nack(method.delivery_tag)
        channel.close()
        self._take_doubtful()

    def _on_not_got(self, _: object, reason: BaseException) -> None:
        """Take the queue for a queue, too, if this channel alone was closed: it allows one consumer."""
        if isinstance(reason, pika.exceptions.ChannelClosedByBroker):
            self._take_doubtful()

    def _take_doubtful(self) -> None:
        doubtful, self._doubtful, self._is_stream = self._doubtful, None, False
        self._arrived(doubtful or ())

    def _settle(self, settlement: Settlement, requeue: bool) -> None:
        for numbers, again in ((settlement.returned, requeue), (settlement.rejected, False)):
            if self._channel.is_open:
                for tag, multiple in self._tags.settle(number - self.base for number in numbers):
                    self._channel.basic_nack(tag, multiple, again)
        if self._channel.is_open:
            for tag, multiple in self._tags.settle(number - self.base for number in settlement.done):
                self._channel.basic_ack(tag, multiple)

    def _ask_depth(self, depth: asyncio.Future[int]) -> None:
        def declared(frame: Any) -> None:
            self._thread.tell(answer(depth, int(frame.method.message_count)))

        if self._channel.is_open:
            self._channel.queue_declare(self._asked.queue, passive=True, callback=declared)
