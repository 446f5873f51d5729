"""Sources and readers of the fake Kinesis endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from millstream.contract.clock import Clock
from millstream.contract.streams import Oldest, Partition, Start, StreamReader
from millstream.triggers.kinesis import KinesisTrigger
from millstream.triggers.kinesis_source import KinesisSource
from tests.brokers.kinesis_fake import NAME, SHARD, KinesisFake
from tests.contract.queue_kit import FUNCTION
from tests.contract.streams import host

WITHIN_S = 10.0


@asynccontextmanager
async def opened(
    fake: KinesisFake, clock: Clock | None = None, stream: str = NAME, **options: object
) -> AsyncIterator[KinesisSource]:
    trigger = KinesisTrigger.parse({"stream": stream, "starting_position": "TRIM_HORIZON", **options})
    async with asyncio.timeout(WITHIN_S):
        source = await trigger.open(host(fake.url, clock), FUNCTION)
        try:
            yield source
        finally:
            await source.aclose()


@asynccontextmanager
async def reading(
    fake: KinesisFake, start: Start | None = None, clock: Clock | None = None, **options: object
) -> AsyncIterator[StreamReader]:
    async with opened(fake, clock, **options) as source:  # type: ignore[arg-type]  # options, no stream
        reader = await source.reader(Partition(SHARD), start or Oldest())
        try:
            yield reader
        finally:
            await reader.aclose()
