"""Odd records that only Kinesis can have: what looks like packed records, hash keys, long partition keys."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import md5

from millstream.triggers.kinesis_aggregates import LONGEST_KEY_BYTES, MAGIC, MOST_RECORDS
from tests.triggers.aggregates import number, packed, sealed, sized, varint

KEY = sized(1, b"key")
RECORD = sized(3, number(1, 0) + sized(3, b"x"))
TWO = packed(("key", None, b"0"), ("key", None, b"1"))
LONG_KEYED = sized(1, b"k" * LONGEST_KEY_BYTES)


@dataclass(frozen=True)
class OddPut:
    """One Kinesis record, as PutRecord takes it."""

    name: str
    data: bytes = b"odd"
    key: str = "k"
    hash_key: str | None = None  # explicit, a decimal number
    records: int = 1  # that a function gets of it, where packed ones are taken apart


ODD_PUTS = (
    OddPut("magic alone", MAGIC),
    OddPut("magic and half a checksum", MAGIC + bytes(8)),
    OddPut("a wrong checksum", TWO[:-1] + bytes([TWO[-1] ^ 1])),
    OddPut("another checksum's body", MAGIC + b"garbage" * 50 + md5(b"").digest()),
    OddPut("nothing packed", sealed(b"")),
    OddPut("keys and no record", sealed(KEY * 3)),
    OddPut("a size beyond the bytes", sealed(KEY + varint(3 << 3 | 2) + varint(1 << 60))),
    OddPut("a size of ten bytes of ones", sealed(KEY + varint(3 << 3 | 2) + b"\xff" * 10)),
    OddPut("a key that is not there", sealed(KEY + sized(3, number(1, 1 << 40) + sized(3, b"x")))),
    OddPut(
        "a hash key that is not there", sealed(KEY + sized(3, number(1, 0) + number(2, 9) + sized(3, b"x")))
    ),
    OddPut("a key that is not UTF-8", sealed(sized(1, b"\xff\xfe") + RECORD)),
    OddPut("a key longer than any", sealed(sized(1, b"k" * (LONGEST_KEY_BYTES + 1)) + RECORD)),
    OddPut("more records than there may be", sealed(KEY + sized(3, b"") * (MOST_RECORDS + 1))),
    OddPut("one record without data beside a good one", sealed(KEY + RECORD + sized(3, number(1, 0)))),
    OddPut("groups, which protobuf has no more", sealed(KEY + varint(3 << 3 | 3) + RECORD)),
    OddPut("one that is good", TWO, records=2),
    OddPut("one that is packed again", packed(("key", None, TWO)), records=1),
    OddPut("many without data", sealed(KEY + sized(3, number(1, 0) + sized(3, b"")) * 300), records=300),
    OddPut("the longest key many times", sealed(LONG_KEYED + RECORD * 100), records=100),
    OddPut("a key with NUL and controls", packed(("a\0b\x1f\x7f", None, b"x"))),
    OddPut("an empty key", packed(("", None, b"x"))),
    OddPut("a hash key of a thousand digits", packed(("k", "9" * 1000, b"x"))),
    OddPut("a hash key that is no number", packed(("k", "\u0663x", b"x"))),
    OddPut("a hash key in digits of another script", packed(("k", "\u0663\u0664", b"x"))),
    OddPut("an empty hash key", packed(("k", "", b"x"))),
    OddPut("a hash key that is negative", packed(("k", "-1", b"x"))),
    OddPut("the largest hash key put", hash_key=str(2**128 - 1)),
    OddPut("a hash key of four thousand digits put", hash_key="9" * 4000),
    OddPut("a partition key of the most bytes", key="\U0001f980" * 256),
    OddPut("a partition key with NUL and controls", key="a\0b\x1f\x7f"),
    OddPut("a partition key with what XML has not", key="\ufffe\uffff\u2028"),
)
