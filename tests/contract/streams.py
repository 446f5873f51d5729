"""What tests of stream triggers share: a stream of their own on a broker, and how it is read."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from millstream.contract.clock import Clock, SystemClock
from millstream.contract.ports import Host
from millstream.contract.records import Position, Record
from millstream.contract.streams import (
    Partition,
    StreamReader,
    StreamSource,
)
from tests.contract.queue_kit import NoInvoker

WITHIN_S = 20.0


class Stream(ABC):
    """A new, empty stream on a broker, with one partition that is open."""

    broker_url: str
    options: Mapping[str, object]  # what the trigger is declared with
    missing: Mapping[str, object]  # the same for a stream that is not there
    missing_name: str  # what a message about that must name
    poll_mark: bytes  # bytes of a request that only a read sends
    mark_grain_s: float = 1.1  # records that are older than this at the mark are not read
    searches_by_time: bool = True  # any `At` works, not only that of a mark
    lost_position: Position | None = None  # one that the broker refuses. None: it refuses none

    def options_at(self, url: str) -> Mapping[str, object]:
        """The options of a mapping that reaches the broker at `url`, the endpoint of its host."""
        return self.options

    def key(self, record: Record) -> str | None:
        """The key that a record was put with; a stream that is ordered as a whole orders each key, too."""
        return record.ordering_key

    def events(self, envelope: Any) -> Any:
        """The records' own parts of an event."""
        assert list(envelope) == ["Records"]
        return envelope["Records"]

    @abstractmethod
    def put(self, data: str, key: str = "k") -> None:
        """Write one record; records of one key are ordered."""

    @abstractmethod
    def data(self, record: Record) -> str:
        """The data that was put, taken from a record's event."""

    @abstractmethod
    def event(self, record: Record, data: str, key: str) -> Mapping[str, Any]:
        """What the event of that record must be; values that only the broker knows come from `record`."""

    def reshard(self) -> bool:
        """Replace the partition by children of it. False: the broker cannot."""
        return False


class ClockAhead(SystemClock):
    """An hour ahead of everybody else's."""

    def now(self) -> float:
        return super().now() + 3600


def host(url: str, clock: Clock | None = None) -> Host:
    return Host(Path("/none"), clock or SystemClock(), NoInvoker(), url, "us-east-1")


async def the_partition(source: StreamSource) -> Partition:
    """The one partition of a stream that was not resharded."""
    (partition,) = await source.partitions()
    return partition


async def read(reader: StreamReader, count: int, limit: int = 1000) -> list[Record]:
    """`count` records, or fewer if the partition ends."""
    records: list[Record] = []
    async with asyncio.timeout(WITHIN_S):
        while len(records) < count:
            page = await reader.read(min(limit, count - len(records)), 1.0)
            records += page.records
            if page.ended:
                break
    return records


async def read_to_the_end(reader: StreamReader) -> list[Record]:
    """All records of a partition that takes no more."""
    records: list[Record] = []
    async with asyncio.timeout(WITHIN_S):
        while True:
            page = await reader.read(1000, 1.0)
            records += page.records
            if page.ended:
                return records
