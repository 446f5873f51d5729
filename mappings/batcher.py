"""Fills batches: by count, by time, by bytes of the serialised event. Pure: time is an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from millstream.contract.functions import MAX_PAYLOAD_BYTES
from millstream.contract.ports import BatchLimits
from millstream.contract.records import Batch, Position, Record


def room_bytes(envelope: Callable[[Sequence[Record]], bytes], partitions: Iterable[str]) -> int:
    """Return how many bytes an event has for its records beside its envelope, with all partitions in it.

    Asked of the trigger's own envelope, around records of no bytes. The comma of each record is not in it.
    """
    empty = [
        Record(partition=p, position=Position("0"), item_id="0", event=b"", arrived_at=0.0, received_at=0.0)
        for p in dict.fromkeys(partitions)
    ]
    return MAX_PAYLOAD_BYTES - len(envelope(empty))


class Batcher:
    """One batch being filled.

    Its window opens with it, that is when the batch before it was sent. A window that ends before
    a record has come says nothing: the first record then opens a new one. Limits may say that it
    always opens with the first record. `room_bytes` is what an event has for its records, commas included.
    Source: AWS, "How Lambda processes records from stream and queue-based event sources", batching.
    """

    def __init__(self, limits: BatchLimits, opened_at: float, room_bytes: int) -> None:
        self._limits = limits
        self._room_bytes = room_bytes
        self._ends_at = opened_at + limits.window_s
        self._records: list[Record] = []
        self._bytes = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._records)

    @property
    def full(self) -> bool:
        """True once it is to be sent without waiting for its window."""
        return self._closed or len(self._records) >= self._limits.size

    @property
    def due_at(self) -> float | None:
        """When it is to be sent, full or not. None: it holds no record."""
        return self._ends_at if self._records else None

    def add(self, records: Sequence[Record], now: float) -> Sequence[Record]:
        """Take records in order; those that did not fit, which then make it full.

        A record that is larger than an event may be makes a batch of its own.
        """
        room = self._limits.size - len(self._records)
        fitting = records[:room]
        size = sum([len(record.event) + 1 for record in fitting])  # each with its comma
        if self._bytes + size <= self._room_bytes:
            self._open(fitting, now)
            self._records += fitting
            self._bytes += size
            return records[room:]
        return self._add_one_by_one(records, now)

    def _add_one_by_one(self, records: Sequence[Record], now: float) -> Sequence[Record]:
        for index, record in enumerate(records):
            if len(self._records) >= self._limits.size:
                return records[index:]
            size = len(record.event) + 1
            if self._records and self._bytes + size > self._room_bytes:
                self._closed = True
                return records[index:]
            self._open((record,), now)
            self._records.append(record)
            self._bytes += size
        return ()

    def _open(self, records: Sequence[Record], now: float) -> None:
        """Open the window with the first record, unless it is open already."""
        if records and not self._records and (self._limits.from_first or now >= self._ends_at):
            self._ends_at = now + self._limits.window_s

    def batch(self) -> Batch:
        """The batch as it stands."""
        return Batch(tuple(self._records))


def split(records: Sequence[Record], limits: BatchLimits, room_bytes: int) -> list[Batch]:
    """All records as batches, in order, with no window."""
    batches = []
    while records:
        batcher = Batcher(limits, 0.0, room_bytes)
        records = batcher.add(records, now=0.0)
        batches.append(batcher.batch())
    return batches
