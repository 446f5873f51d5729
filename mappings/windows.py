"""Tumbling windows: which records belong together, and the state that goes from one batch to the next. Pure.

             first record of it          a later window's record, or the time is over
   none ───────────────────────► open ───────────────────────────────────────────► final call ──► none
                                  └── state over 1 MB: final call, terminated early ──► none

Source: AWS, "Implementing stateful Kinesis Data Streams processing in Lambda".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from millstream.contract.records import Record
from millstream.contract.times import iso_s

MAX_STATE_BYTES = 1024 * 1024
"""Largest state of a shard. Source: as above."""

EMPTY_STATE = b"{}"


@dataclass(frozen=True, slots=True)
class Window:
    """One step of time, `start` included; Unix seconds, whole ones."""

    start: int
    end: int


def window_of(arrived_at: float, size_s: int) -> Window:
    """The window of a record: windows tile time from the Unix epoch on."""
    start = int(arrived_at // size_s) * size_s
    return Window(start, start + size_s)


class TumblingWindows:
    """The windows of one partition, one after another."""

    def __init__(self, size_s: int, partition: str, event_source_arn: str) -> None:
        self._size_s = size_s
        self._partition = partition
        self._arn = event_source_arn
        self.window: Window | None = None  # the open one
        self.state = EMPTY_STATE
        self._crowded = False

    @property
    def overflowed(self) -> bool:
        """True if the open window must be ended now, for its state is too large, or leaves no room."""
        return self._crowded or len(self.state) > MAX_STATE_BYTES

    @property
    def envelope_bytes(self) -> int:
        """What `wrap` adds to an event, but for a few bytes."""
        about = 400 + len(self._partition.encode()) + len(self._arn.encode())
        return about + len(self.state)

    def crowd_out(self) -> bool:
        """Have the open window ended, for a record has no room beside its state. False: it has none."""
        self._crowded = self.window is not None and self.state != EMPTY_STATE
        return self._crowded

    def fitting(self, records: Sequence[Record]) -> int:
        """How many of the records at the front belong to the open window; opens one if none is.

        A record that is older than the open window belongs to it, as its own is over.
        """
        if not records:
            return 0
        if self.window is None:
            self.window = window_of(records[0].arrived_at, self._size_s)
        for index, record in enumerate(records):
            if record.arrived_at >= self.window.end:
                return index
        return len(records)

    def over(self, now: float) -> bool:
        """True if the open window has ended, where the partition is read up to `now`."""
        return self.window is not None and now >= self.window.end

    def wrap(self, envelope: bytes, *, final: bool = False) -> bytes:
        """The event of the open window, made of a plain one."""
        assert self.window is not None
        about = {
            "window": {"start": iso_s(self.window.start), "end": iso_s(self.window.end)},
            "state": msgspec.Raw(self.state),
            "shardId": self._partition,
            "eventSourceARN": self._arn,
            "isFinalInvokeForWindow": final,
            "isWindowTerminatedEarly": final and self.overflowed,
        }
        return envelope[:-1] + b"," + msgspec.json.encode(about)[1:]

    def close(self) -> None:
        """End the open window: its final call succeeded."""
        self.window = None
        self.state = EMPTY_STATE
        self._crowded = False
