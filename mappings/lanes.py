"""Shares one partition's records among its lanes, and says whether there is room for more.

A lane that is blocked and full lets go of what is read for it from then on; it is read again, for this lane
alone, once the lane has room. So a poisoned lane keeps none of the others from going on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

from millstream.contract.ports import BatchLimits
from millstream.contract.records import Position, Record
from millstream.mappings.lane import Lane

PAGE = 10_000
"""Records that one read asks for at most. Source: AWS, GetRecords."""

LEAST_BYTES = 256 * 1024
MOST_BYTES = 16 * 1024 * 1024
"""Bounds of what one partition may hold, however many there are: below, each record is a read."""

TYPICAL_RECORD_BYTES = 1024
"""Size that records are taken to have before the first one was seen."""


@dataclass(frozen=True, slots=True)
class ReadAhead:
    """Bounds of what is held of one partition, all its lanes together."""

    records: int  # not resolved
    span: int  # read and not behind the checkpoint, resolved ones included
    bytes: int  # of records not resolved


def read_ahead(limits: BatchLimits, lanes: int, buffer_bytes: int) -> ReadAhead:
    """Two batches for each lane, a page at least; of `buffer_bytes` what is of use.

    The read that fills it may bring one answer of the source more, 10 MB with Kinesis.
    """
    records = max(2 * limits.size * lanes, PAGE)
    return ReadAhead(records, 4 * records, min(max(buffer_bytes, LEAST_BYTES), MOST_BYTES))


class Lanes:
    """The lanes of one partition, or the one lane of several."""

    def __init__(self, lanes: Sequence[Lane], ahead: ReadAhead) -> None:
        self._lanes = lanes
        self._most_records = ahead.records // len(lanes)
        self._most_bytes = ahead.bytes // len(lanes)
        self._held = [[0, 0] for _ in lanes]  # records that are not resolved, and their bytes
        self._seen = 0  # records ever held, and their bytes
        self._seen_bytes = 0
        self.behind: dict[int, Position] = {}  # by lane: the last position before what it let go

    def of(self, record: Record) -> int:
        """The lane of a record: the same for all of one ordering key."""
        return crc32((record.ordering_key or "").encode()) % len(self._lanes) if len(self._lanes) > 1 else 0

    def put(self, records: Sequence[Record]) -> None:
        """Hand over records in read order."""
        if len(self._lanes) == 1:
            self._put(0, records)
            return
        shares: dict[int, list[Record]] = {}
        for record in records:
            shares.setdefault(self.of(record), []).append(record)
        for lane, share in shares.items():
            self._put(lane, share)

    def resolved(self, records: Sequence[Record]) -> None:
        """Take note that records of one lane are resolved."""
        held = self._held[self.of(records[0])]
        held[0] -= len(records)
        held[1] -= _bytes(records)

    def close(self) -> None:
        """Say that nothing more will come."""
        for lane in self._lanes:
            lane.close()

    def stop(self) -> None:
        """Let each lane end as soon as an invocation that runs has been resolved."""
        for lane in self._lanes:
            lane.stop()

    def send_early(self, *, all_of_them: bool) -> None:
        """Have lanes send what they gather: those that hold too much for more to be read, or all."""
        for number, lane in enumerate(self._lanes):
            if all_of_them or self._over(number):
                lane.send_early()

    def caught_up(self, at: float) -> None:
        """Say that all that had arrived at `at` (Unix seconds) was put."""
        for lane in self._lanes:
            lane.caught_up(at)

    @property
    def full(self) -> bool:
        """True while a lane that lets nothing go is more than half full.

        Not until one is full: small reads cost as much as large ones.
        """
        return any(lane not in self.behind and self._over(lane) for lane in range(len(self._lanes)))

    @property
    def to_let_go(self) -> list[int]:
        """Lanes that are blocked and hold up the others."""
        blocked = [n for n, lane in enumerate(self._lanes) if lane.blocked and n not in self.behind]
        if len(blocked) + len(self.behind) == len(self._lanes):
            return []  # there is nobody to hold up
        return [lane for lane in blocked if self._over(lane)]

    @property
    def to_read_again(self) -> int | None:
        """A lane that let records go and has room for them again. None: there is none."""
        for number in self.behind:
            if not self._lanes[number].blocked and not self._over(number):
                return number
        return None

    def room(self, lane: int | None = None) -> int:
        """Records that a read may bring for all lanes, or for one alone."""
        size = max(self._seen_bytes // self._seen if self._seen else TYPICAL_RECORD_BYTES, 1)
        if lane is not None:
            records, held_bytes = self._held[lane]
            lanes = 1
        else:
            records, held_bytes = (sum(held) for held in zip(*self._held, strict=True))
            lanes = len(self._lanes)
        room = min(self._most_records * lanes - records, (self._most_bytes * lanes - held_bytes) // size)
        return max(1, min(PAGE, room))

    def has_room(self, lane: int) -> bool:
        """True if a lane takes more of what is read again for it."""
        return not self._lanes[lane].blocked and not self._over(lane)

    def _put(self, lane: int, records: Sequence[Record]) -> None:
        size = _bytes(records)
        self._held[lane][0] += len(records)
        self._held[lane][1] += size
        self._seen += len(records)
        self._seen_bytes += size
        self._lanes[lane].put(records)

    def _over(self, lane: int) -> bool:
        records, size = self._held[lane]
        return records > self._most_records // 2 or size > self._most_bytes // 2


def _bytes(records: Sequence[Record]) -> int:
    return sum([len(record.event) for record in records])
