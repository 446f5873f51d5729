"""What every layer speaks: records, batches, and the proof that a batch is resolved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias, final

import msgspec

from millstream.contract.progress import Position as Position
from millstream.contract.progress import Progress


class Record(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One message, as the function will see it.

    `event` is its compact JSON, UTF-8, made once by the trigger and never parsed on the way.
    """

    partition: str  # on the record, as one event may hold several
    position: Position
    item_id: str  # what batchItemFailures names: messageId, sequence number
    event: bytes
    arrived_at: float  # Unix seconds, by the source's clock
    received_at: float  # Unix seconds, by ours; what a visibility timeout counts from
    delivery_count: int = 1  # 1: first delivery. Queues only
    ordering_key: str | None = None  # None: no order promised
    receipt: str = ""  # private to the trigger: receipt handle, delivery tag
    refused: Reason | None = None  # given up as it was read, without the function. Streams only

    @property
    def size_bytes(self) -> int:
        """Size of `event`."""
        return len(self.event)


def by_partition(records: Sequence[Record]) -> Iterable[tuple[str, Sequence[Record]]]:
    """The records of each partition, in order; partitions by their first record."""
    names = [record.partition for record in records]
    if names and names.count(names[0]) == len(names):  # most often, and quicker than to look at each
        return [(names[0], records)]
    parts: dict[str, list[Record]] = {}
    for record in records:
        parts.setdefault(record.partition, []).append(record)
    return parts.items()


@dataclass(frozen=True, slots=True)
class Batch:
    """Records in read order that go to the function together; never empty."""

    records: tuple[Record, ...]

    def __post_init__(self) -> None:
        if not self.records:
            raise ValueError("a batch holds at least one record")


class Reason(Enum):
    """Why records were given up; the value is AWS's `requestContext.condition`."""

    RETRIES_EXHAUSTED = "RetryAttemptsExhausted"
    TOO_OLD = "RecordAgeExceeded"
    TOO_LARGE = "MaximumPayloadSizeExceeded"
    SCHEMA_NOT_FOUND = "SCHEMA_NOT_FOUND"
    DESERIALIZATION_ERROR = "DESERIALIZATION_ERROR"


class By(Enum):
    """Who made a record done."""

    FUNCTION = "function"
    FILTER = "filter"


@dataclass(frozen=True, slots=True)
class Done:
    """The function took it, or no filter matched it."""

    by: By = By.FUNCTION


@dataclass(frozen=True, slots=True)
class Returned:
    """Left to the queue, which will deliver it again. Queues only."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Given up, with no destination that holds it, to a queue that can pass it on to a dead-letter exchange.

    Only for readers of a trigger whose policy says `rejects`.
    """

    reason: Reason


@dataclass(frozen=True, slots=True)
class DestinationReceipt:
    """What a destination answered; made by destinations alone, once they hold the record.

    `accepted_by` names the destination in a user's words. None: no destination is configured.
    """

    accepted_by: str | None


@dataclass(frozen=True, slots=True)
class Discarded:
    """Given up. Cannot be built before the on-failure destination has answered."""

    reason: Reason
    receipt: DestinationReceipt


Verdict: TypeAlias = Done | Returned | Rejected | Discarded


class _Seal:
    """Held by this module alone, so that no other can mint a proof."""


_SEAL: Final = _Seal()


@final
class Resolution:
    """Proof that each record of one batch has its verdict. Only `resolve` makes one."""

    __slots__ = ("batch", "verdicts")

    def __init__(self, seal: _Seal, batch: Batch, verdicts: tuple[Verdict, ...]) -> None:
        if seal is not _SEAL:
            raise TypeError("a Resolution is made by resolve() only")
        self.batch = batch
        self.verdicts = verdicts


def resolve(batch: Batch, verdicts: Mapping[str, Verdict]) -> Resolution:
    """Pair each record with its verdict, by `item_id`.

    Raises:
        ValueError: a record has no verdict, or a verdict no record.
    """
    ids = [record.item_id for record in batch.records]
    if set(ids) != set(verdicts):
        raise ValueError(f"verdicts and records differ: {sorted(set(ids) ^ set(verdicts))}")
    return Resolution(_SEAL, batch, tuple(verdicts[item] for item in ids))


def resolve_all(batch: Batch, verdict: Verdict) -> Resolution:
    """The same verdict for each record of a batch."""
    return Resolution(_SEAL, batch, (verdict,) * len(batch.records))


@final
class Checkpoint:
    """Proof that all of a partition up to `position` is resolved. Only `CursorTracker` makes one."""

    __slots__ = ("partition", "position")

    def __init__(self, seal: _Seal, partition: str, position: Position) -> None:
        if seal is not _SEAL:
            raise TypeError("a Checkpoint is made by CursorTracker only")
        self.partition = partition
        self.position = position


class CursorTracker:
    """Turns batches resolved in any order into checkpoints that skip nothing.

    Records are admitted in the read order of their partitions; a partition's checkpoint is the last of
    the unbroken run of resolved records from its front. Records may be let go, and admitted again later: no
    checkpoint passes them meanwhile. Cost: O(1) a record, amortized.
    """

    def __init__(self, *partitions: str) -> None:
        self._parts = {partition: Progress() for partition in partitions}

    @property
    def in_flight(self) -> int:
        """Records admitted and not yet behind a checkpoint, but for those resolved beyond what was let go."""
        return sum([len(part) for part in self._parts.values()])

    @property
    def beyond(self) -> int:
        """Records read since the first one was let go; 0 if none was."""
        return max([part.beyond for part in self._parts.values()])

    def admit(self, records: Sequence[Record]) -> None:
        """Take records in read order, filtered ones too, before anything else sees them.

        Raises:
            ValueError: a position was admitted before and is not yet behind a checkpoint.
        """
        for partition, some in by_partition(records):
            self._parts[partition].admit([record.position for record in some])

    def complete(self, resolution: Resolution) -> Sequence[Checkpoint]:
        """Mark a batch resolved; the new checkpoint of each partition whose front moved.

        Raises:
            ValueError: a record was returned or rejected, which a stream cannot take back.
        """
        if not {Returned, Rejected}.isdisjoint(map(type, resolution.verdicts)):
            raise ValueError("a stream cannot take a record back")
        moved = [
            (partition, self._parts[partition].complete([record.position for record in some]))
            for partition, some in by_partition(resolution.batch.records)
        ]
        return [Checkpoint(_SEAL, partition, last) for partition, last in moved if last is not None]

    def stay(self, partition: str) -> None:
        """Keep the partition's checkpoint where the records end that were admitted so far."""
        self._parts[partition].stay()

    def let_go(self, records: Sequence[Record]) -> None:
        """Let records go that were admitted since `stay`: they are read, and admitted, again later."""
        for partition, some in by_partition(records):
            self._parts[partition].let_go([record.position for record in some])

    def admit_again(self, records: Sequence[Record]) -> None:
        """Take records that were let go and are read again, in read order; some may be left for later."""
        for partition, some in by_partition(records):
            self._parts[partition].admit_again([record.position for record in some])

    def caught_up(self, partition: str) -> Sequence[Checkpoint]:
        """Say that all that was let go has been admitted again; the new checkpoint, if it moves already."""
        last = self._parts[partition].caught_up()
        return [] if last is None else [Checkpoint(_SEAL, partition, last)]
