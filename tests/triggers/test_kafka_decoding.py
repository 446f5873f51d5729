"""Batches as kafka-python's fetcher has them read, whatever is in them; without a broker."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.errors import CorruptRecordError
from kafka.record.memory_records import MemoryRecordsBuilder
from kafka.structs import TopicPartition

from millstream.triggers.kafka_decoding import TolerantRecords, why_unread
from millstream.triggers.kafka_unreadable import TRIES, Unreadable

GZIP = 1
PLACE = TopicPartition("t", 0)


def batch(*records: tuple[bytes | None, list[tuple[str, bytes]]], first: int = 0, codec: int = 0) -> bytes:
    """One batch of these values and headers."""
    builder = MemoryRecordsBuilder(magic=2, compression_type=codec, batch_size=1_000_000, offset=first)
    for value, headers in records:
        builder.append(timestamp=1000, key=b"k", value=value, headers=headers)
    builder.close()
    return bytes(builder.buffer())


def taken(data: bytes, spoilt: Unreadable | None = None, wanted: int = 0) -> list[Any]:
    """All that one fetch brings."""
    from kafka.record import MemoryRecords

    part = TolerantRecords(wanted, PLACE, MemoryRecords(data), spoilt=spoilt or Unreadable())
    found: list[Any] = part.take()
    part._maybe_raise_next_inline_exception()
    return found


def taken_at_last(data: bytes, wanted: int = 0) -> list[Any]:
    """What fetches bring together; each begins behind what the one before it has brought."""
    from kafka.record import MemoryRecords

    spoilt, found = Unreadable(), list[Any]()
    for _ in range(TRIES + 1):
        at = found[-1].offset + 1 if found else wanted
        part = TolerantRecords(at, PLACE, MemoryRecords(data), spoilt=spoilt)
        try:
            found += part.take()
            part._maybe_raise_next_inline_exception()
        except CorruptRecordError:
            continue
        return found
    raise AssertionError("nothing is given up")


def test_names_that_are_no_utf8_have_a_replacement_and_all_else_stays() -> None:
    data = bytearray(batch((b"a", [("name", b"1"), ("ok", b"2")]), (None, []), (b"c", [("name", b"")])))
    data = bytearray(bytes(data).replace(b"name", b"n\xff\xfee"))
    mended = taken(with_checksum(data))
    assert [(m.offset, m.value, m.key, m.timestamp) for m in mended] == [
        (0, b"a", b"k", 1000),
        (1, None, b"k", 1000),
        (2, b"c", b"k", 1000),
    ]
    strange = "n\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}e"
    assert [m.headers for m in mended] == [[(strange, b"1"), ("ok", b"2")], [], [(strange, b"")]]
    assert [why_unread(m) for m in mended] == [None] * 3


def with_checksum(data: bytearray) -> bytes:
    """The same with the checksum of what it holds."""
    from crc32c import crc32c

    data[17:21] = crc32c(bytes(data[21:])).to_bytes(4)
    return bytes(data)


@pytest.mark.parametrize("codec", [0, GZIP])
def test_a_batch_that_is_spoilt_is_given_up_under_its_offsets_after_some_tries(codec: int) -> None:
    good, bad = batch((b"a", [])), bytearray(batch((b"b", []), (b"c", []), first=1, codec=codec))
    bad[61:] = b"\xa5" * len(bad[61:])
    for spoilt in (bytes(bad), with_checksum(bad)):
        data = good + spoilt + batch((b"d", []), first=3)
        with pytest.raises(CorruptRecordError):
            taken(data)
        found = taken_at_last(data)
        assert [message.offset for message in found] == [0, 1, 2, 3]
        assert [why_unread(message) is None for message in found] == [True, False, False, True]
        assert found[1].value == spoilt
        assert (found[2].value, found[2].headers) == (None, [])


def test_a_fetch_from_within_a_spoilt_batch_gives_up_the_rest_of_it_alone() -> None:
    bad = bytearray(batch((b"a", []), (b"b", []), (b"c", [])))
    bad[61:] = b"\xa5" * len(bad[61:])
    assert [message.offset for message in taken_at_last(bytes(bad), wanted=1)] == [1, 2]


@given(st.lists(st.tuples(st.integers(61, 140), st.integers(0, 255)), max_size=6), st.sampled_from([0, GZIP]))
def test_whatever_a_batch_holds_each_of_its_offsets_is_brought_once(
    changes: list[tuple[int, int]], codec: int
) -> None:
    data = bytearray(batch(*[(b"v%d" % n, [("h", b"x")]) for n in range(4)], codec=codec))
    for at, byte in changes:
        if at < len(data):
            data[at] = byte
    found = taken_at_last(with_checksum(data))
    offsets = [message.offset for message in found]
    assert offsets == sorted(set(offsets))
    kept = [message.offset for message in found if why_unread(message) is None]
    assert [message.offset for message in found if why_unread(message) is not None] in (
        [],
        [*range(max(kept, default=-1) + 1, 4)],
    )
