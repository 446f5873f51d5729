"""Taking apart what the Kinesis Producer Library packed."""

from __future__ import annotations

import base64
from hashlib import md5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.triggers.kinesis_aggregates import (
    LONGEST_KEY_BYTES,
    MAGIC,
    MOST_RECORDS,
    UserRecord,
    unpack,
    unpack_base64,
)
from millstream.triggers.kinesis_records import HashRange
from tests.examples import examples
from tests.triggers.aggregates import number, packed, sealed, sized, varint

KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
HASH_KEYS = st.none() | st.integers(0, 2**128 - 1).map(str)
PACKED = st.lists(st.tuples(KEYS, HASH_KEYS, st.binary(max_size=300)), min_size=1, max_size=20)
ONE = packed(("key", None, b"data"))


@examples(100)
@given(PACKED)
def test_what_was_packed_is_unpacked_in_its_order(records: list[tuple[str, str | None, bytes]]) -> None:
    assert unpack(packed(*records)) == [UserRecord(*record) for record in records]


@examples(100)
@given(PACKED)
def test_base64_of_it_is_unpacked_too(records: list[tuple[str, str | None, bytes]]) -> None:
    text = b'"' + base64.b64encode(packed(*records)) + b'"'
    assert unpack_base64(text) == [UserRecord(*record) for record in records]


@examples(200)
@given(st.binary(max_size=200))
def test_no_sealed_bytes_raise(body: bytes) -> None:
    found = unpack(sealed(body))
    assert found is None or found


@examples(100)
@given(PACKED, st.data())
def test_a_flipped_bit_makes_it_a_plain_record(
    records: list[tuple[str, str | None, bytes]], chosen: st.DataObject
) -> None:
    whole = bytearray(packed(*records))
    at = chosen.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << chosen.draw(st.integers(0, 7))
    assert unpack(bytes(whole)) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"plain",
        MAGIC,
        MAGIC + bytes(15),
        MAGIC + bytes(16),  # a digest of something else
        MAGIC + md5(b"").digest(),  # holds nothing
        sealed(sized(1, b"key")),  # holds keys, but no record
        sealed(sized(3, number(1, 0) + sized(3, b"x"))),  # a key that is not in the table
        sealed(sized(1, b"key") + sized(3, number(1, 1) + sized(3, b"x"))),
        sealed(sized(1, b"key") + sized(3, number(1, 0) + number(2, 0) + sized(3, b"x"))),
        sealed(sized(1, b"key") + sized(3, sized(3, b"x"))),  # no key
        sealed(sized(1, b"key") + sized(3, number(1, 0))),  # no data
        sealed(sized(1, b"key") + sized(3, sized(1, b"0") + sized(3, b"x"))),  # bytes for an index
        sealed(number(1, 7)),  # a number for a key
        sealed(sized(1, b"\xff") + sized(3, number(1, 0) + sized(3, b"x"))),  # a key that is no text
        sealed(sized(1, b"key")[:-1]),  # cut off
        sealed(varint(1 << 3 | 3)),  # a group, which protobuf has no more
        sealed(b"\xff" * 11),  # a number without an end
        sealed(b"\x80"),
    ],
)
def test_what_is_broken_or_empty_is_a_plain_record(data: bytes) -> None:
    assert unpack(data) is None
    assert unpack_base64(b'"' + base64.b64encode(data) + b'"') is None


@pytest.mark.parametrize("text", [b'""', b'"84maw', b'"84maw!!!"', b'"84mawg"', b"null"])
def test_text_that_is_no_base64_is_a_plain_record(text: bytes) -> None:
    assert unpack_base64(text) is None


def test_an_aggregate_of_more_records_than_one_may_hold_is_a_plain_record() -> None:
    one = sized(3, number(1, 0) + sized(3, b""))
    assert len(unpack(sealed(sized(1, b"key") + one * MOST_RECORDS)) or ()) == MOST_RECORDS
    assert unpack(sealed(sized(1, b"key") + one * (MOST_RECORDS + 1))) is None


@pytest.mark.parametrize("field", [1, 2])
def test_a_key_that_is_longer_than_any_key_makes_it_a_plain_record(field: int) -> None:
    """Each packed record may name it again: a thousand would have it a thousand times."""
    record = sized(3, number(1, 0) + sized(3, b"x"))
    longest, longer = b"k" * LONGEST_KEY_BYTES, b"k" * (LONGEST_KEY_BYTES + 1)
    assert unpack(sealed(sized(1, b"key") + sized(field, longest) + record)) is not None
    assert unpack(sealed(sized(1, b"key") + sized(field, longer) + record)) is None


def test_fields_that_are_not_known_are_passed_over() -> None:
    tags = sized(4, sized(1, b"name") + sized(2, b"value"))
    fixed = varint(9 << 3 | 5) + bytes(4) + varint(10 << 3 | 1) + bytes(8)
    body = sized(1, b"key") + fixed + sized(3, number(1, 0) + sized(3, b"x") + tags) + number(300, 1)
    assert unpack(sealed(body)) == [UserRecord("key", None, b"x")]


def test_a_record_belongs_to_the_shard_of_its_explicit_hash_key() -> None:
    shard = HashRange(10, 20)
    held = [key for key in ("9", "10", "20", "21") if shard.holds(UserRecord("k", key, b""))]
    assert held == ["10", "20"]


def test_a_record_without_one_belongs_to_the_shard_of_its_partition_key() -> None:
    digest = int(md5(b"key").hexdigest(), 16)
    record = UserRecord("key", None, b"")
    assert HashRange(digest, digest).holds(record)
    assert not HashRange(digest + 1, 2**128 - 1).holds(record)


def test_a_hash_key_that_is_no_number_is_held() -> None:
    assert HashRange(0, 0).holds(UserRecord("key", "x", b""))
