"""Keeps the records of one assigned partition, and how far its reader and the client have come.

next ─── what the reader has ───► taken ─── what waits ───► brought ─── no records ───► end
"""

from __future__ import annotations

from collections import deque

from millstream.contract.records import Record

BUFFER_RECORDS = 2_000
MOST_BYTES = 4 * 1024 * 1024
LEAST_BYTES = 64 * 1024
"""What may wait of one partition, however few or many share what all of them may have."""


class Buffer:
    """The records of one assigned partition that wait for its reader."""

    __slots__ = (
        *("brought", "bytes", "count", "end", "epoch", "full_since", "next", "paused", "runs"),
        *("seek", "share_bytes", "slow", "taken"),
    )

    def __init__(self, epoch: int, start: int) -> None:
        self.epoch = epoch
        self.next = start  # the offset at which a new reader begins
        self.taken = start  # the one behind what the reader has
        self.brought = start  # the one behind the last record that the client brought
        self.end = start  # no record before it is still to be brought; from `brought` on there is none
        self.seek: int | None = None  # where the client must go on. None: where it is
        self.runs: deque[list[Record]] = deque()  # of records, as polls brought them; none is empty
        self.share_bytes = MOST_BYTES  # what may wait
        self.count = 0  # of all of them
        self.bytes = 0
        self.paused = False  # the client passes over it
        self.slow = False  # it was passed over, and has not been empty since
        self.full_since: float | None = None  # monotonic

    @property
    def full(self) -> bool:
        return self.count >= BUFFER_RECORDS or self.bytes >= self.share_bytes

    @property
    def half_empty(self) -> bool:
        return self.count <= BUFFER_RECORDS // 2 and self.bytes <= self.share_bytes // 2

    def stuck(self, now: float, patience_s: float) -> bool:
        """Say whether the buffer is full, and the client should pass over the partition."""
        if not self.full:
            self.full_since = None
            return False
        if self.full_since is None:
            self.full_since = now
        return self.slow or now - self.full_since >= patience_s

    def take(self, limit: int) -> list[Record]:
        """The next records, in order."""
        found: list[Record] = []
        while self.runs and len(found) < limit:
            run = self.runs.popleft()
            room = limit - len(found)
            if len(run) > room:
                self.runs.appendleft(run[room:])
            found += run[:room]
        if found:
            self.count -= len(found)
            self.bytes -= sum([len(record.event) for record in found])
            self.taken = int(found[-1].position) + 1
        self.slow = self.slow and self.count > 0
        return found

    def put(self, run: list[Record]) -> None:
        """Add what follows."""
        self.runs.append(run)
        self.count += len(run)
        self.bytes += sum([len(record.event) for record in run])
        self.brought = int(run[-1].position) + 1
        self.end = max(self.end, self.brought)

    def pass_over(self) -> None:
        self.paused = self.slow = True
        self.full_since = None

    def go_back(self, offset: int) -> None:
        """Have the client bring all records from an offset on again."""
        self.runs.clear()
        self.count = self.bytes = 0
        self.seek = self.taken = self.brought = self.end = offset

    def go_forth(self, offset: int) -> None:
        """Have the client go on at a later offset. Waiting records stay, as the topic has lost them."""
        self.seek = self.brought = self.end = offset

    def skip_markers(self) -> int | None:
        """Go on behind offsets without a record, once all before them is done. None: there are none."""
        done = self.seek is None and self.next == self.brought
        if not done or self.end == self.next:
            return None
        self.next = self.taken = self.brought = self.end
        return self.end
