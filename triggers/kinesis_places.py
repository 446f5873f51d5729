"""Where reading of a shard begins or goes on, as requests say it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, assert_never

from millstream.contract.records import Record
from millstream.contract.streams import After, At, Oldest, Start

_LATEST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a shard."""

    kind: Literal["TRIM_HORIZON", "AT_TIMESTAMP", "AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"]
    sequence: str | None = None
    at: float | None = None  # Unix seconds
    last_sub: int = -1  # of the packed records of `sequence`, those up to this one are behind us

    @property
    def iterator_arguments(self) -> dict[str, Any]:
        """Arguments of GetShardIterator."""
        return {"ShardIteratorType": self.kind, **self._named("StartingSequenceNumber")}

    @property
    def starting_position(self) -> dict[str, Any]:
        """StartingPosition of SubscribeToShard."""
        return {"Type": self.kind, **self._named("SequenceNumber")}

    def _named(self, sequence: str) -> dict[str, Any]:
        if self.at is not None:
            return {"Timestamp": datetime.fromtimestamp(min(max(self.at, 0.0), _LATEST), UTC)}
        return {} if self.sequence is None else {sequence: self.sequence}

    def wanted(self, records: list[Record]) -> list[Record]:
        """What of the first records from here on is not before it."""
        if self.at is not None:
            # A request may say whole seconds only, by the age of botocore; arrivals are in milliseconds.
            since = math.floor(self.at * 1000) / 1000
            first = next((n for n, record in enumerate(records) if record.arrived_at >= since), len(records))
            return records[first:]
        if self.last_sub < 0:
            return records
        behind = {f"{self.sequence}:{sub}" for sub in range(self.last_sub + 1)}
        return [record for record in records if record.position not in behind]

    def passed(self, sequence: str, wanted: list[Record]) -> Place:
        """The place behind the record `sequence`, the last one read; `wanted` is what it brought."""
        return self if self.at is not None and not wanted else after(sequence)


OLDEST = Place("TRIM_HORIZON")


def after(sequence: str) -> Place:
    """Behind a whole Kinesis record."""
    return Place("AFTER_SEQUENCE_NUMBER", sequence)


def place_of(start: Start) -> Place:
    """Where a reader begins."""
    match start:
        case Oldest():
            return OLDEST
        case At(timestamp):
            return Place("AT_TIMESTAMP", at=timestamp)
        case After(position):
            sequence, packed, sub = position.partition(":")
            return Place("AT_SEQUENCE_NUMBER", sequence, last_sub=int(sub)) if packed else after(sequence)
        case _:
            assert_never(start)
