"""The ports of streams: partitions that are read in order, and settled by a cursor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from millstream.contract.records import Position, Record


@dataclass(frozen=True, slots=True)
class Partition:
    """One ordered part of a stream."""

    id: str
    parents: frozenset[str] = frozenset()  # read only after these have ended
    closed: bool = False  # takes no further records; what it holds may still be read


@dataclass(frozen=True, slots=True)
class Page:
    """What one read brought, in order; empty if there was nothing new."""

    records: Sequence[Record] = ()
    ended: bool = False  # the partition will never yield again
    lag_s: float | None = None  # how far behind the newest record this page ends. None: unknown


@dataclass(frozen=True, slots=True)
class Oldest:
    """TRIM_HORIZON: from the oldest record that the source still has."""


@dataclass(frozen=True, slots=True)
class At:
    """AT_TIMESTAMP: from the first record that arrived at or after `timestamp`."""

    timestamp: float  # Unix seconds, by the source's clock


@dataclass(frozen=True, slots=True)
class Latest:
    """LATEST: from the moment at which the mapping was first enabled; a reader is given it as `At`."""


@dataclass(frozen=True, slots=True)
class After:
    """From the record that follows `position`; from the oldest one if that was trimmed."""

    position: Position


StartingPosition: TypeAlias = Oldest | At | Latest
"""Where a partition without a cursor starts, as declared."""

Start: TypeAlias = Oldest | At | After
"""Where a reader starts."""


def plain_item_id(identifier: object) -> str | None:
    """The `item_id` that an `itemIdentifier` of most sources is. None: it is of a wrong form."""
    return identifier if isinstance(identifier, str) else None


@dataclass(frozen=True, slots=True)
class StreamPolicy:
    """What a mapping does with failures, as its options say."""

    item_failures: bool = False  # ReportBatchItemFailures
    max_retries: int | None = None  # MaximumRetryAttempts; None: for ever
    max_age_s: float | None = None  # MaximumRecordAgeInSeconds; None: no limit
    bisect: bool = False  # BisectBatchOnFunctionError
    on_failure_required: bool = False  # keep records until the on-failure destination holds them
    lanes: int = 1  # ParallelizationFactor
    tumbling_window_s: int = 0  # TumblingWindowInSeconds; 0: none
    share_batches: bool = False  # a batch may hold records of several partitions
    item_id: Callable[[object], str | None] = plain_item_id  # reads an `itemIdentifier`


class StreamReader(Protocol):
    """Reads one partition from its start. One call at a time."""

    async def read(self, limit: int, wait_s: float) -> Page:
        """The next records, at most `limit`; an empty page after about `wait_s` without any.

        The reader keeps the source's pace itself, and renews what runs out (iterators,
        subscriptions). After an error the next call goes on behind the last page returned.

        Raises:
            SourceUnavailable: no answer, or throttled; asked again after a while.
            PartitionGone: the partition was trimmed, or its stream was made anew.
            Refused: the stream is gone or refuses us.
        """

    async def aclose(self) -> None:
        """End within a second, a read in flight included."""


class StreamSource(Protocol):
    """An opened stream. Its calls, and those of its readers, may overlap."""

    @property
    def event_source_arn(self) -> str:
        """What records of it carry as `eventSourceARN`."""

    @property
    def identity(self) -> str | None:
        """What tells the stream from an earlier one of its name, as of the last call of `partitions`.

        None: the stream does not say, or its partitions and positions tell by themselves. A stream with
        another identity than the mapping has read so far is read anew, from its beginning.
        """

    async def partitions(self) -> Sequence[Partition]:
        """All that the stream has now, ended ones included while they can be read.

        Raises:
            SourceUnavailable: no answer now.
            Refused: the stream is gone or refuses us.
        """

    async def mark(self) -> float:
        """Where LATEST begins for a mapping that is enabled now: Unix seconds by the source's clock.

        Every record that arrives after the call is found from there on. A source that cannot search
        by time may use the call to hold its own marks for the readers that follow.
        """

    async def reader(self, partition: Partition, start: Start) -> StreamReader:
        """A reader from `start`; an `After` whose record was trimmed begins at the oldest.

        Raises:
            SourceUnavailable, PartitionGone, Refused: as `StreamReader.read`.
        """

    async def aclose(self) -> None:
        """Close what is the source's own; its readers are closed before."""
