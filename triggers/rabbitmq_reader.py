"""Reads a RabbitMQ queue: connects, and connects again; hands records out, and settles them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from millstream.contract.clock import Clock
from millstream.contract.errors import SourceUnavailable
from millstream.contract.records import Record, Rejected, Resolution, Returned
from millstream.triggers.rabbitmq_consumer import Consumer, Settlement, Subscription
from millstream.triggers.rabbitmq_deliveries import DeliveryWatch
from millstream.triggers.rabbitmq_messages import RecordMaker

GATHER_S = 0.005
"""How long a poll waits, behind its first record, for as many as it asked for: a poll for each record
would cost more than the record."""

DEPTH_WITHIN_S = 5.0


class RabbitMqReader:
    """Implements QueueReader. Connects with the first `receive`, and with each one after a loss."""

    lease_s = None

    def __init__(self, asked: Subscription, maker: RecordMaker, watch: DeliveryWatch, clock: Clock) -> None:
        self._asked = asked
        self._maker = maker
        self._watch = watch
        self._clock = clock
        self._consumer: Consumer | None = None
        self._last = 0  # number of the last record of the connections before
        self._changed = asyncio.Event()
        self._closed = False

    async def connect(self) -> Consumer:
        """The consumer, once it is there.

        Raises:
            SourceUnavailable, Refused: as `receive`.
            InvalidConfiguration: the queue is a stream.
        """
        consumer = self._consumer
        if consumer is None or consumer.over:
            consumer = self._started()
        while not (consumer.opened or consumer.over):
            await self._changed.wait()
        self._check(consumer)
        return consumer

    async def receive(self, limit: int, wait_s: float) -> Sequence[Record]:
        consumer = await self.connect()
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._gathered(consumer, limit)
        self._check(consumer)
        return consumer.take(limit)

    async def extend(self, records: Sequence[Record]) -> None:
        """Nothing: records are ours until they are settled, or the connection is lost."""

    async def settle(self, resolution: Resolution) -> None:
        """Acknowledge what is Done or Discarded; give back what is Returned, dead-letter what is Rejected.

        Raises:
            SourceUnavailable: some of it came over a connection that is lost, and comes again.
        """
        done, returned, rejected = list[int](), list[int](), list[int]()
        consumer, lost = self._consumer, 0
        for record, verdict in zip(resolution.batch.records, resolution.verdicts, strict=True):
            number = int(record.receipt)
            if consumer is None or consumer.over or number <= consumer.base:
                lost += 1
                continue
            match verdict:
                case Returned():
                    returned.append(number)
                case Rejected():
                    rejected.append(number)
                case _:
                    done.append(number)
        if consumer is not None and lost < len(resolution.verdicts):
            consumer.settle(Settlement(done, returned, rejected))
        if lost:
            raise SourceUnavailable(f"{self._asked.queue}: {lost} records of a connection that was lost")

    async def backlog(self) -> int | None:
        consumer = self._consumer
        if consumer is None or not consumer.opened or consumer.over:
            return None
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        consumer.ask_depth(answer)
        with suppress(TimeoutError):
            async with asyncio.timeout(DEPTH_WITHIN_S):
                return await answer + len(consumer)
        return None

    async def aclose(self) -> None:
        self._closed = True
        if self._consumer is not None:
            await self._consumer.aclose()

    def _started(self) -> Consumer:
        if self._closed:
            raise SourceUnavailable(f"{self._asked.queue}: closed")
        if self._consumer is not None:
            self._last = self._consumer.last
        self._consumer = Consumer(
            self._asked, self._maker, self._watch, self._last, self._clock, self._notify
        )
        self._consumer.start()
        return self._consumer

    async def _gathered(self, consumer: Consumer, limit: int) -> None:
        """Wait for a record, and a moment for `limit` of them."""
        while consumer.want(1):
            await self._changed.wait()
        if consumer.want(limit):
            async with asyncio.timeout(GATHER_S):
                while consumer.want(limit):
                    await self._changed.wait()

    def _notify(self) -> None:
        """Wake each one that waits."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _check(self, consumer: Consumer) -> None:
        if consumer.over:
            raise consumer.fault
