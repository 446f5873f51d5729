"""Where reading of a shard begins or goes on, as requests say it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, assert_never

from millstream.contract.streams import After, At, Oldest, Start
from millstream.triggers.kinesis_held import Held
from millstream.triggers.kinesis_records import RecordMaker
from millstream.triggers.kinesis_wire import KinesisRecord

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

    def held(self, maker: RecordMaker, found: Sequence[KinesisRecord], received_at: float) -> Held:
        """What of the first records from here on is not before it."""
        first, sub = 0, 0
        if self.at is not None:
            # A request may say whole seconds only, by the age of botocore; arrivals are in milliseconds.
            since = math.floor(self.at * 1000) / 1000
            first = next((n for n, one in enumerate(found) if not one.arrived_before(since)), len(found))
        elif found and found[0].sequence_number == self.sequence:
            sub = self.last_sub + 1
        return Held(maker, found, received_at, first, sub)

    def passed(self, found: Sequence[KinesisRecord], wanted: bool) -> Place:
        """The place behind records from here on; `wanted` unless all of them are before it."""
        return self if not found or (self.at is not None and not wanted) else after(found[-1].sequence_number)


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
