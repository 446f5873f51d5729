"""Reads batches of records in kafka-python's place, so that no byte of one stops a partition for ever.

kafka-python gives up at a header's name that is no UTF-8, and at each later look again. Here such a name
has U+FFFD; what cannot be read at all is brought as a `Spoilt` one, to be given up under its offset.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from kafka.record.memory_records import MemoryRecords
from kafka.record.util import decode_varint

from millstream.triggers.kafka_codecs import NotInflated, inflated
from millstream.triggers.kafka_unreadable import Unreadable

MOST_RAW_BYTES = 4 * 1024 * 1024
"""How much of a spoilt batch is kept, to be looked into by a person."""


class TolerantRecords(Fetcher.PartitionRecords):  # type: ignore[misc]  # the library has no types
    """Takes the place of the fetcher's own class; `spoilt` counts the tries of one client."""

    def __init__(
        self, fetch_offset: int, place: Any, records: MemoryRecords, *, spoilt: Unreadable, **more: Any
    ) -> None:
        batches = _Batches(records._buffer, place.partition, fetch_offset, spoilt)
        super().__init__(fetch_offset, place, batches, **more)


class _Batches(MemoryRecords):  # type: ignore[misc]
    __slots__ = ("_partition", "_spoilt", "_wanted")

    def __init__(self, data: Any, partition: int, wanted: int, spoilt: Unreadable) -> None:
        super().__init__(data)
        self._partition = partition
        self._wanted = wanted
        self._spoilt = spoilt

    def next_batch(self) -> Any:
        following = self._next_slice
        if following is None or len(following) <= self.MAGIC_OFFSET or following[self.MAGIC_OFFSET] < 2:
            return super().next_batch()  # of brokers before 0.11
        self._cache_next()
        return TolerantBatch(following, self._partition, self._wanted, self._spoilt)


class TolerantBatch(DefaultRecordBatch):  # type: ignore[misc]
    """Brings all of its records, those that it cannot read as `Spoilt` ones."""

    _buffer: bytes | bytearray  # the library's own, as are the next two
    _decompressed: bool
    _pos: int

    def __init__(self, data: Any, partition: int, wanted: int, spoilt: Unreadable) -> None:
        super().__init__(data)
        self._raw = data
        self._partition = partition
        self._wanted = wanted
        self._spoilt = spoilt
        self._why: str | None = None

    def validate_crc(self) -> bool:
        """Pass a batch with a wrong checksum, too: its records are given up. Markers never are."""
        if super().validate_crc():
            return True
        self._why = "wrong checksum"
        return not self.is_control_batch

    def __iter__(self) -> Iterator[DefaultRecord]:
        following = self.base_offset
        try:
            self._maybe_uncompress()
        except (NotInflated, MemoryError) as error:
            self._why = self._why or f"not inflated: {error}"
        while self._why is None:
            try:
                record = next(self)
            except StopIteration:
                return
            except CorruptRecordError as error:
                self._why = str(error)
            else:
                if not following <= record.offset <= self.last_offset:
                    self._why = "an offset out of its order"
                    break
                following = record.offset + 1
                yield record
        reached = max(following, self._wanted)
        if not self._spoilt.is_final(self._partition, reached):
            raise CorruptRecordError(f"batch at offset {self.base_offset}: {self._why}")
        value: bytes | None = bytes(self._raw[:MOST_RAW_BYTES])
        for offset in range(reached, self.last_offset + 1):
            yield Spoilt(offset, value, self._why)
            value = None

    def _maybe_uncompress(self) -> None:
        if not self._decompressed and self.compression_type:
            self._buffer = inflated(self.compression_type, bytes(memoryview(self._buffer)[self._pos :]))
            self._pos = 0
        self._decompressed = True

    def _read_msg(self, *args: Any) -> DefaultRecord:
        try:
            return super()._read_msg(*args)
        except UnicodeDecodeError:
            return self._read_any_names()

    def _read_any_names(self) -> DefaultRecord:
        """The next record, where the name of a header is no UTF-8.

        Raises:
            ValueError, IndexError: it is none.
        """
        buffer = self._buffer
        size, at = decode_varint(buffer, self._pos)
        end = at + size
        _, at = decode_varint(buffer, at)  # attributes
        late_ms, at = decode_varint(buffer, at)
        delta, at = decode_varint(buffer, at)
        key, at = _bytes(buffer, at)
        value, at = _bytes(buffer, at)
        count, at = decode_varint(buffer, at)
        headers = []
        for _ in range(count):
            name, at = _bytes(buffer, at)
            data, at = _bytes(buffer, at)
            headers.append(((name or b"").decode(errors="replace"), data))
        if at != end:
            raise ValueError("of another size than it says")
        self._pos = at
        ms = (
            self.max_timestamp
            if self.timestamp_type == self.LOG_APPEND_TIME
            else self.first_timestamp + late_ms
        )
        return DefaultRecord(size, self.base_offset + delta, ms, self.timestamp_type, key, value, headers)


class Spoilt(DefaultRecord):  # type: ignore[misc]
    """Stands in place of a record that cannot be read; its checksum says why, which others have none of."""

    __slots__ = ("_why",)

    def __init__(self, offset: int, value: bytes | None, why: str) -> None:
        super().__init__(0, offset, -1, DefaultRecordBatch.CREATE_TIME, None, value, [])
        self._why = why

    @property
    def checksum(self) -> str:
        return self._why


def why_unread(message: Any) -> str | None:
    """Why a message of the library's stands for one that cannot be read. None: it is one itself."""
    return message.checksum if isinstance(message.checksum, str) else None


def _bytes(buffer: bytes | bytearray, at: int) -> tuple[bytes | None, int]:
    """Bytes behind their length, or null, and what follows."""
    size, at = decode_varint(buffer, at)
    if size < 0:
        return None, at
    if size > len(buffer) - at:
        raise ValueError("longer than what holds it")
    return bytes(buffer[at : at + size]), at + size
