"""Reads leased partitions until they end, whatever comes in between."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from millstream.contract.backoff import Backoff
from millstream.contract.clock import Clock
from millstream.contract.errors import (
    InvalidConfiguration,
    LeaseLost,
    PartitionGone,
    Refused,
    SourceUnavailable,
    StateUnavailable,
)
from millstream.contract.ports import Observer
from millstream.contract.streams import Page, Partition, Start, StreamReader, StreamSource
from millstream.contract.waiting import isolated

logger = logging.getLogger(__name__)

FIRST_S = 1.0
LONGEST_S = 60.0
"""Waits between tries to read a partition: the first, doubled up to the longest."""


class PartitionReader:
    """Reads one partition, and can be sent to another place of it. Implements StreamReader."""

    def __init__(self, source: StreamSource, partition: Partition, start: Start) -> None:
        self._source = source
        self._partition = partition
        self._start = start
        self._reader: StreamReader | None = None

    async def open(self) -> StreamReader:
        """The reader at the place; opens it, if it is not open."""
        if self._reader is None:
            self._reader = await self._source.reader(self._partition, self._start)
        return self._reader

    async def read(self, limit: int, wait_s: float) -> Page:
        return await (await self.open()).read(limit, wait_s)

    async def seek(self, start: Start) -> None:
        """Read from another place on; opened with the next read."""
        self._start = start
        await self.aclose()

    async def aclose(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.aclose()


async def read_on(
    read: Callable[[], Coroutine[Any, Any, bool]],
    stopping: Callable[[], bool],
    mapping: str,
    partition: str,
    observer: Observer,
    clock: Clock,
) -> bool:
    """Call `read`, which opens a partition and runs it, until that is over. True: the partition has ended.

    Raises:
        LeaseLost: another daemon has it.
        PartitionGone: its source does not have it, or says so.
        Refused, InvalidConfiguration: its source is gone.
    """
    backoff = Backoff(FIRST_S, LONGEST_S)
    while not stopping():
        try:
            return await isolated(read())
        except (SourceUnavailable, StateUnavailable) as unavailable:
            observer.poll_failed(mapping, str(unavailable))
        except (LeaseLost, PartitionGone, Refused, InvalidConfiguration):
            raise
        except Exception as fault:
            about = {"mapping": mapping, "partition": partition}
            logger.exception("partition failed, it is read again", extra=about)
            observer.poll_failed(mapping, f"{partition}: {type(fault).__name__}, see the daemon's log")
        await clock.sleep(backoff.wait_s(clock.monotonic()))
    return False
