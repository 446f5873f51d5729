"""Takes the chunks of RabbitMQ's streams apart, into messages and sub-batches of them, and makes records.

The offsets of a chunk's messages follow from the counts in it, whatever may be read of the messages: so
one that cannot be read still has its place, and a record of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from millstream.contract.records import Record
from millstream.contract.seldom import Seldom
from millstream.triggers.rabbitmq_stream_codecs import NAMES, NotInflated, inflated
from millstream.triggers.rabbitmq_stream_messages import StreamRecordMaker

logger = logging.getLogger(__name__)

PIECE_RECORDS = 1000
PIECE_BYTES = 1024 * 1024
"""What is made of a chunk at once, by the first limit that it meets: a chunk may hold millions of records."""

_BATCHED = 0x80
"""The bit that tells a sub-batch from a message. Source: RabbitMQ, "Stream Protocol", Deliver."""

_SUB_BATCH_HEAD = 11  # type, count, size inflated, size


class BrokenChunk(ValueError):
    """A chunk is not of the form that brokers write."""


@dataclass(frozen=True, slots=True)
class SubBatch:
    """Messages that their producer has put together."""

    codec: int
    count: int  # of messages
    size_bytes: int  # inflated
    data: bytes


@dataclass(frozen=True, slots=True)
class Piece:
    """Records of a chunk that follow one another."""

    first: int  # offset
    last: int
    timestamp_ms: int
    records: list[Record]
    chunk_last: int  # offset of the chunk's last record
    ends_chunk: bool

    @property
    def size_bytes(self) -> int:
        """Size of the records' events."""
        return sum(record.size_bytes for record in self.records)


class Chunk(Protocol):
    """What the broker writes and sends at once: messages that it got within a moment."""

    chunk_first_offset: int
    num_entries: int  # messages and sub-batches
    num_records: int  # messages, those in sub-batches included
    timestamp: int  # Unix milliseconds
    data: bytes


class ChunkReader:
    """Makes the records of one stream's chunks."""

    def __init__(self, maker: StreamRecordMaker) -> None:
        self._maker = maker
        self._seldom = Seldom()

    def pieces(self, chunk: Chunk, now: float) -> Iterator[Piece]:
        """The chunk's records in pieces, each made as it is asked for. At least one piece.

        Raises:
            BrokenChunk: it is none; the pieces before are as they should be.
        """
        first, records, size_bytes = chunk.chunk_first_offset, list[Record](), 0
        chunk_last = first + chunk.num_records - 1
        for record in self._records(chunk, now):
            if len(records) == PIECE_RECORDS or size_bytes >= PIECE_BYTES:
                last = first + len(records) - 1
                yield Piece(first, last, chunk.timestamp, records, chunk_last, ends_chunk=False)
                first, records, size_bytes = last + 1, [], 0
            records.append(record)
            size_bytes += record.size_bytes
        last = first + len(records) - 1
        if last != chunk_last:
            raise BrokenChunk(f"a chunk of {chunk.num_records} messages has another number of them")
        yield Piece(first, last, chunk.timestamp, records, chunk_last, ends_chunk=True)

    def _records(self, chunk: Chunk, now: float) -> Iterator[Record]:
        offset, at_ms = chunk.chunk_first_offset, chunk.timestamp
        for entry in entries(bytes(chunk.data), chunk.num_entries):
            if isinstance(entry, bytes):
                yield self._maker.record(offset, at_ms, entry, now)
                offset += 1
                continue
            try:
                messages = messages_of(entry)
            except NotInflated as why:
                about = {"stream": self._maker.stream, "offset": offset, "messages": entry.count}
                sentence = "sub-batch cannot be read, its messages are given up"
                self._seldom.warning(logger, sentence, str(why), **about)
                for number in range(entry.count):
                    data = b"" if number else entry.data
                    yield self._maker.refused(offset + number, at_ms, data, NAMES.get(entry.codec), now)
            else:
                for number, data in enumerate(messages):
                    yield self._maker.record(offset + number, at_ms, data, now)
            offset += entry.count


def entries(data: bytes, count: int) -> Iterator[bytes | SubBatch]:
    """The messages and sub-batches in a chunk's data.

    Raises:
        BrokenChunk: they are not `count`, or not whole.
    """
    at = 0
    for _ in range(count):
        kind = data[at] if at < len(data) else 0
        if kind & _BATCHED:
            start = at + _SUB_BATCH_HEAD
            length = int.from_bytes(data[at + 7 : start], "big")
        else:
            start = at + 4
            length = int.from_bytes(data[at:start], "big")
        stop = start + length
        if stop > len(data):
            raise BrokenChunk("a chunk that is cut short")
        if kind & _BATCHED:
            messages = int.from_bytes(data[at + 1 : at + 3], "big")
            size_bytes = int.from_bytes(data[at + 3 : at + 7], "big")
            yield SubBatch(kind >> 4 & 0b111, messages, size_bytes, data[start:stop])
        else:
            yield data[start:stop]
        at = stop
    if at != len(data):
        raise BrokenChunk("a chunk with something behind its messages")


def messages_of(batch: SubBatch) -> list[bytes]:
    """The messages in a sub-batch, which are as many as it says.

    Raises:
        NotInflated: they cannot be had.
    """
    content = inflated(batch.codec, batch.data, batch.size_bytes)
    messages: list[bytes] = []
    at = 0
    for _ in range(batch.count):
        start = at + 4
        at = start + int.from_bytes(content[at:start], "big")
        if at > len(content):
            raise NotInflated("it holds fewer messages than it says")
        messages.append(content[start:at])
    if at != len(content):
        raise NotInflated("it holds more messages than it says")
    return messages
