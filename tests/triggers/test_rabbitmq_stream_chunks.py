"""Chunks of streams: offsets by the counts in them; sub-batches as clients write them, and broken ones."""

from __future__ import annotations

import base64
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cramjam
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contract.records import Reason, Record
from millstream.triggers.rabbitmq_stream_chunks import (
    PIECE_BYTES,
    PIECE_RECORDS,
    BrokenChunk,
    ChunkReader,
    Piece,
    SubBatch,
    entries,
    messages_of,
)
from millstream.triggers.rabbitmq_stream_codecs import INFLATED_MOST, NotInflated
from millstream.triggers.rabbitmq_stream_messages import StreamRecordMaker

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4

JAVA = {
    "gzip": (GZIP, "H4sIAAAAAAAA/2NgYDBnCC5dYJSbWlycmJ6qYKCQSCRgQNdqSL5WI6K1AgDJMTSasQAAAA=="),
    "snappy": (SNAPPY, "/wYAAHNOYVBwWQArAADIrXK7sQFMAAAANwBTdaAybWVzc2FnZSAwIGGaAQBCOwAAMeY7AAAyojsA"),
    "lz4": (LZ4, "BCJNGGBAgiwAAAD/BQAAADcAU3WgMm1lc3NhZ2UgMCBhAQAUDTsAHzE7ACcfMjsAEVBhYWFhYQAAAAA="),
    "lz4 of commons-compress": (
        LZ4,
        "BCJNGGRApzMAAAD/BQAAADcAU3WgMm1lc3NhZ2UgMCBhAQAUDTsAHzE7ACcfMjsACsBhYWFhYWFhYWFhYWEAAAAATVbKSQ==",
    ),
    "zstd": (ZSTD, "KLUv/QBYHAEAsAAAADcAU3WgMm1lc3NhZ2UgMCBhMTIEAAAkB+d5NQdKwAQBAAA="),
}
"""Three messages, as codecs of RabbitMQ's Java client (0.15) write them, by the JDK, Xerial and zstd-jni."""


@dataclass
class Sent:
    """A chunk as the broker sends it."""

    data: bytes
    num_entries: int
    num_records: int
    chunk_first_offset: int = 100
    timestamp: int = 1_600_000_000_000


def alone(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


def batched(codec: int, count: int, size_bytes: int, data: bytes) -> bytes:
    lengths = count.to_bytes(2, "big") + size_bytes.to_bytes(4, "big") + len(data).to_bytes(4, "big")
    return bytes([0x80 | codec << 4]) + lengths + data


def packed(*messages: bytes) -> bytes:
    return b"".join(map(alone, messages))


def gzipped(content: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=31)
    return compressor.compress(content) + compressor.flush()


COMPRESSED: dict[int, Callable[[bytes], bytes]] = {
    0: bytes,
    GZIP: gzipped,
    SNAPPY: lambda content: bytes(cramjam.snappy.compress(content)),
    LZ4: lambda content: bytes(cramjam.lz4.compress(content)),
    ZSTD: lambda content: bytes(cramjam.zstd.compress(content)),
}


def pieces(*parts: bytes, records: int) -> list[Piece]:
    reader = ChunkReader(StreamRecordMaker("s"))
    return list(reader.pieces(Sent(b"".join(parts), len(parts), records), 5.0))


def records_of(*parts: bytes, records: int) -> list[Record]:
    return [record for piece in pieces(*parts, records=records) for record in piece.records]


def data(record: Record) -> bytes:
    return base64.b64decode(msgspec.json.decode(record.event)["data"])


def encoding(record: Record) -> Any:
    return msgspec.json.decode(record.event)["basicProperties"]["contentEncoding"]


@pytest.mark.parametrize("client", list(JAVA))
def test_what_the_java_client_compresses_is_read(client: str) -> None:
    codec, written = JAVA[client]
    records = records_of(batched(codec, 3, 177, base64.b64decode(written)), records=3)
    assert [data(record)[:9] for record in records] == [b"message 0", b"message 1", b"message 2"]


@pytest.mark.parametrize("codec", list(COMPRESSED))
def test_messages_keep_their_offsets_around_a_sub_batch(codec: int) -> None:
    content = packed(b"b", b"", b"c" * 5000)
    batch = batched(codec, 3, len(content), COMPRESSED[codec](content))
    records = records_of(alone(b"a"), batch, alone(b"d"), records=5)
    assert [data(record) for record in records] == [b"a", b"b", b"", b"c" * 5000, b"d"]
    assert [record.item_id for record in records] == ["100", "101", "102", "103", "104"]
    assert {record.refused for record in records} == {None}


def test_a_bare_block_of_snappy_and_members_of_gzip_are_read() -> None:
    content = packed(b"a", b"b")
    for codec, compressed in (
        (SNAPPY, bytes(cramjam.snappy.compress_raw(content))),
        (GZIP, gzipped(content[:3]) + gzipped(content[3:])),
    ):
        assert messages_of(SubBatch(codec, 2, len(content), compressed)) == [b"a", b"b"]


def test_many_members_of_gzip_take_no_longer_than_their_bytes() -> None:
    content = packed(b"a")
    began_at = time.monotonic()
    batch = SubBatch(GZIP, 1, len(content), gzipped(b"") * 150_000 + gzipped(content))  # 3 MB
    assert messages_of(batch) == [b"a"]
    assert time.monotonic() - began_at < 5.0  # it was 11 s, and 4 times as long for twice as much


TWO = packed(b"x", b"y")

UNREADABLE = [
    batched(ZSTD, 2, 10, gzipped(TWO)),
    *[batched(codec, 2, 10, COMPRESSED[codec](TWO)[:-3]) for codec in (GZIP, LZ4, ZSTD)],
    *[batched(codec, 2, 9, COMPRESSED[codec](TWO)) for codec in COMPRESSED],
    *[batched(codec, 2, 11, COMPRESSED[codec](TWO)) for codec in COMPRESSED],
    *[batched(codec, 2, 10, b"") for codec in COMPRESSED],
    batched(5, 2, 10, TWO),
    batched(7, 2, 10, TWO),
    batched(0, 2, 5, packed(b"x")),  # fewer messages than it says
    batched(0, 2, 15, packed(b"x", b"y", b"z")),  # and more
    batched(0, 2, 10, b"\xff\xff\xff\xff123456"),
    batched(GZIP, 2, INFLATED_MOST + 1, gzipped(TWO)),
    batched(GZIP, 2, 2**32 - 1, gzipped(TWO)),
]


@pytest.mark.parametrize("batch", UNREADABLE)
def test_a_sub_batch_that_cannot_be_read_gives_its_messages_up_one_by_one(
    batch: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    records = records_of(alone(b"a"), batch, alone(b"b"), records=4)
    assert [record.item_id for record in records] == ["100", "101", "102", "103"]
    assert [record.position for record in records] == [f"{at}:1600000000000" for at in range(100, 104)]
    refused = Reason.DESERIALIZATION_ERROR
    assert [record.refused for record in records] == [None, refused, refused, None]
    assert [data(record) for record in records] == [b"a", batch[11:], b"", b"b"]
    (warning,) = caplog.records
    assert warning.message == "sub-batch cannot be read, its messages are given up"
    assert (warning.levelname, vars(warning)["offset"], vars(warning)["messages"]) == ("WARNING", 101, 2)


def test_its_first_event_tells_how_the_bytes_are_encoded() -> None:
    records = records_of(batched(ZSTD, 2, 10, b"junk"), batched(6, 1, 10, b"junk"), records=3)
    assert [encoding(record) for record in records] == ["zstd", "zstd", None]


def test_many_of_them_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    records_of(*[batched(ZSTD, 1, 10, b"junk")] * 50, batched(LZ4, 1, 10, b"junk"), records=51)
    assert len(caplog.records) == 2


@pytest.mark.parametrize("name", ["snappy", "lz4", "zstd"])
def test_a_codec_without_its_library_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cramjam", None)
    codec, written = JAVA[name]
    with pytest.raises(
        NotInflated, match=rf"a library for {name} \(pip install 'millstream\[rabbitmq-streams\]'"
    ):
        messages_of(SubBatch(codec, 3, 177, base64.b64decode(written)))


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
def test_a_bomb_is_not_inflated_beyond_what_it_says(codec: int) -> None:
    bomb = COMPRESSED[codec](bytes(64 * 1024 * 1024))
    tracemalloc.start()
    try:
        with pytest.raises(NotInflated):
            messages_of(SubBatch(codec, 1, 1000, bomb))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_records_come_in_pieces_whatever_a_chunk_holds() -> None:
    small = pieces(*[alone(b"x")] * (2 * PIECE_RECORDS + 1), records=2 * PIECE_RECORDS + 1)
    assert [(piece.first, piece.last) for piece in small] == [(100, 1099), (1100, 2099), (2100, 2100)]
    assert [piece.ends_chunk for piece in small] == [False, False, True]
    assert {piece.chunk_last for piece in small} == {2100}
    large = pieces(*[alone(b"x" * PIECE_BYTES)] * 3, records=3)
    assert [len(piece.records) for piece in large] == [1, 1, 1]
    assert large[0].size_bytes > PIECE_BYTES


def test_millions_of_records_in_a_few_bytes_are_made_as_they_are_asked_for() -> None:
    """A producer says how many messages are in a sub-batch; the broker counts offsets by that."""
    chunk = Sent(batched(ZSTD, 65_535, 10, b"junk") * 1000, 1000, 65_535_000)
    tracemalloc.start()
    try:
        first = next(ChunkReader(StreamRecordMaker("s")).pieces(chunk, 5.0))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert (first.first, first.last, first.chunk_last) == (100, 1099, 65_535_099)


@pytest.mark.parametrize(
    ("content", "count", "records"),
    [
        (alone(b"x"), 2, 1),
        (alone(b"x"), 0, 0),
        (alone(b"x") + b"more", 1, 1),
        (alone(b"x")[:-1], 1, 1),
        (b"\x00\x00", 1, 1),
        (batched(GZIP, 2, 10, gzipped(TWO))[:-1], 1, 2),
        (b"\x90\x00", 1, 1),
        (alone(b"x"), 1, 2),
    ],
)
def test_a_chunk_that_no_broker_writes_is_refused(content: bytes, count: int, records: int) -> None:
    with pytest.raises(BrokenChunk):
        list(ChunkReader(StreamRecordMaker("s")).pieces(Sent(content, count, records), 5.0))


@given(st.binary(max_size=300), st.integers(0, 5))
def test_whatever_a_chunk_holds_it_is_taken_apart_or_refused(content: bytes, count: int) -> None:
    try:
        found = list(entries(content, count))
    except BrokenChunk:
        return
    assert len(found) == count


@given(st.integers(0, 7), st.integers(0, 4), st.integers(0, 300), st.binary(max_size=300), st.booleans())
def test_whatever_a_sub_batch_holds_each_offset_has_its_record(
    codec: int, count: int, size_bytes: int, content: bytes, compress: bool
) -> None:
    if compress and codec in COMPRESSED:
        size_bytes, content = len(content), COMPRESSED[codec](content)
    records = records_of(batched(codec, count, size_bytes, content), alone(b"z"), records=count + 1)
    assert [record.item_id for record in records] == [str(at) for at in range(100, 101 + count)]
    assert data(records[-1]) == b"z"
