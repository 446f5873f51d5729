"""Keeps the records of a queue hidden from other readers while this one has them, and counts their bytes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from millstream.contract.clock import Clock
from millstream.contract.errors import InvalidConfiguration, Refused, SourceUnavailable
from millstream.contract.ports import QueueReader
from millstream.contract.records import Record

logger = logging.getLogger(__name__)

BEATS_PER_LEASE = 4
"""Looks at what is held, per visibility timeout; what is half through its timeout is extended."""


class Hidden:
    """Records between their receipt and their resolution."""

    def __init__(self, reader: QueueReader, mapping: str, clock: Clock) -> None:
        self._reader = reader
        self._mapping = mapping
        self._clock = clock
        self._since: dict[str, tuple[Record, float]] = {}  # by item_id: hidden since (monotonic)
        self._seen = 0  # records ever held, and their bytes
        self._seen_bytes = 0
        self.bytes = 0  # of the events of records that are not resolved

    @property
    def mean_bytes(self) -> int:
        """Size of a record's event, on average of all that were held. 0: none was."""
        return self._seen_bytes // self._seen if self._seen else 0

    def hold(self, records: Sequence[Record]) -> None:
        """Keep records hidden from now until they are let go."""
        now = self._clock.monotonic()
        for record in records:
            self._since[record.item_id] = (record, now)
        size = sum([len(record.event) for record in records])
        self.bytes += size
        self._seen += len(records)
        self._seen_bytes += size

    def let_go(self, records: Sequence[Record]) -> None:
        """Keep records hidden no more: they are resolved."""
        for record in records:
            self._since.pop(record.item_id, None)
        self.bytes -= sum([len(record.event) for record in records])

    @contextmanager
    def as_it_is(self, records: Sequence[Record]) -> Iterator[float]:
        """Do not extend records meanwhile; gives for how many seconds they stay hidden by themselves."""
        resting = {r.item_id: self._since.pop(r.item_id) for r in records if r.item_id in self._since}
        lease_s = self._reader.lease_s
        oldest = min((since for _, since in resting.values()), default=-math.inf)
        try:
            yield math.inf if lease_s is None else oldest + lease_s - self._clock.monotonic()
        finally:
            self._since.update(resting)

    async def beat(self) -> None:
        """Extend what is held, for ever; cancelled by whoever runs it."""
        lease_s = self._reader.lease_s
        while lease_s is not None:
            await self._clock.sleep(lease_s / BEATS_PER_LEASE)
            now = self._clock.monotonic()
            due = [record for record, since in self._since.values() if now - since >= lease_s / 2]
            if not due:
                continue
            try:
                await self._reader.extend(due)
            except (SourceUnavailable, Refused, InvalidConfiguration) as error:
                extra = {"mapping": self._mapping, "records": len(due), "why": str(error)}
                logger.warning("visibility not extended", extra=extra)
                continue
            for record in due:
                if record.item_id in self._since:
                    self._since[record.item_id] = (record, now)
