"""Reads a RabbitMQ queue: connects, and connects again; hands records out, and settles them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from millstream.contract.clock import Clock
from millstream.contract.errors import SourceUnavailable
from millstream.contract.records import Record, Resolution, Returned
from millstream.triggers.rabbitmq_consumer import Consumer, Subscription
from millstream.triggers.rabbitmq_messages import RecordMaker

logger = logging.getLogger(__name__)

GATHER_S = 0.005
"""How long a poll waits, behind its first record, for as many as it asked for: a poll for each record
would cost more than the record."""

RETURN_FIRST_S = 0.1
RETURN_MAX_S = 10.0
"""How long records are held before they are given back: the first time, doubled with each further batch
that fails, up to the longest. RabbitMQ has no visibility timeout: what is given back comes at once."""

DEPTH_WITHIN_S = 5.0


class RabbitMqReader:
    """Implements QueueReader. Connects with the first `receive`, and with each one after a loss."""

    lease_s = None

    def __init__(self, asked: Subscription, maker: RecordMaker, clock: Clock) -> None:
        self._asked = asked
        self._maker = maker
        self._clock = clock
        self._consumer: Consumer | None = None
        self._last = 0  # number of the last record of the connections before
        self._failures = 0  # batches in a row of which something was returned
        self._changed = asyncio.Event()
        self._closed = False

    async def connect(self) -> Consumer:
        """The consumer, once it is there.

        Raises:
            SourceUnavailable, InvalidConfiguration: as `receive`.
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
        """Acknowledge what is Done or Discarded; give back, or dead-letter, what is Returned.

        Raises:
            SourceUnavailable: some of it came over a connection that is lost, and comes again.
        """
        pairs = list(zip(resolution.batch.records, resolution.verdicts, strict=True))
        returned = [int(record.receipt) for record, verdict in pairs if isinstance(verdict, Returned)]
        done = [int(record.receipt) for record, verdict in pairs if not isinstance(verdict, Returned)]
        self._failures = self._failures + 1 if returned else 0
        pause_s = min(RETURN_FIRST_S * 2 ** min(self._failures - 1, 16), RETURN_MAX_S) if returned else 0.0
        consumer = self._consumer
        lost = len(pairs)
        if consumer is not None and not consumer.over:
            ours = [[n for n in numbers if n > consumer.base] for numbers in (done, returned)]
            consumer.settle(ours[0], ours[1], pause_s)
            lost -= len(ours[0]) + len(ours[1])
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
        self._consumer = Consumer(self._asked, self._maker, self._last, self._clock, self._notify)
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
