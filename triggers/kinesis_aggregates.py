"""Takes apart the records that the Kinesis Producer Library packs into one. Pure.

    F3 89 9A C2 │ protobuf AggregatedRecord │ MD5 of the protobuf

    AggregatedRecord { 1: partition key, repeated   2: explicit hash key, repeated   3: Record, repeated }
    Record           { 1: index of partition key    2: index of hash key, optional   3: data   4: tags }

Source: "KPL Aggregated Record Format" in the Kinesis Producer Library's repository.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import md5

import msgspec

MAGIC = b"\xf3\x89\x9a\xc2"
DIGEST_BYTES = 16

MOST_RECORDS = 100_000
"""An aggregate that says to hold more is a plain record: six bytes of it would become an event each."""

LONGEST_KEY_BYTES = 1024
"""Of a partition key of 256 characters, the longest that there is; each packed record may name it again.
Source: AWS, PutRecord, PartitionKey."""

_MAGIC_BASE64 = b'"84maw'  # the five characters that do not depend on what follows the magic

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of protobuf
_FIXED = {_FIXED64: 8, _FIXED32: 4}
_LONGEST_VARINT = 10


class UserRecord(msgspec.Struct, frozen=True, gc=False):
    """One packed record."""

    partition_key: str
    hash_key: str | None  # explicit, a decimal number. None: the partition key's hash
    data: bytes


def unpack_base64(text: bytes) -> list[UserRecord] | None:
    """The records packed into a JSON string in base64; as `unpack`."""
    if not text.startswith(_MAGIC_BASE64):
        return None
    try:
        return unpack(msgspec.json.decode(text, type=bytes))
    except (msgspec.DecodeError, UnicodeError):
        return None


def unpack(data: bytes) -> list[UserRecord] | None:
    """The records packed into `data`, at least one. None: it is a plain record, or a broken aggregate."""
    if not data.startswith(MAGIC) or len(data) < len(MAGIC) + DIGEST_BYTES:
        return None
    body = data[len(MAGIC) : -DIGEST_BYTES]
    if md5(body, usedforsecurity=False).digest() != data[-DIGEST_BYTES:]:
        return None
    try:
        return _aggregate(body) or None
    except (ValueError, IndexError):  # UnicodeDecodeError is a ValueError
        return None


def _aggregate(body: bytes) -> list[UserRecord]:
    keys: list[str] = []
    hash_keys: list[str] = []
    packed: list[bytes] = []
    for field, value in _fields(body):
        if field == 1:
            keys.append(_key(value))
        elif field == 2:
            hash_keys.append(_key(value))
        elif field == 3:
            packed.append(_of_bytes(value))
        if max(len(keys), len(hash_keys), len(packed)) > MOST_RECORDS:
            raise ValueError("more records than an aggregate may hold")
    return [_user_record(one, keys, hash_keys) for one in packed]


def _user_record(body: bytes, keys: list[str], hash_keys: list[str]) -> UserRecord:
    key: int | bytes | None = None
    hash_key: int | bytes | None = None
    data: int | bytes | None = None
    for field, value in _fields(body):
        if field == 1:
            key = value
        elif field == 2:
            hash_key = value
        elif field == 3:
            data = value
    explicit = None if hash_key is None else hash_keys[_of_varint(hash_key)]
    return UserRecord(keys[_of_varint(key)], explicit, _of_bytes(data))


def _fields(body: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field; fixed-width values, which no field of ours has, come as bytes."""
    at = 0
    while at < len(body):
        tag, at = _varint(body, at)
        if tag & 7 == _VARINT:
            number, at = _varint(body, at)
            yield tag >> 3, number
            continue
        if tag & 7 == _BYTES:
            size, at = _varint(body, at)
        elif tag & 7 in _FIXED:
            size = _FIXED[tag & 7]
        else:
            raise ValueError("an unknown wire type")
        if at + size > len(body):
            raise ValueError("a value that is cut off")
        yield tag >> 3, body[at : at + size]
        at += size


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends; IndexError if it is cut off."""
    value = 0
    for count in range(_LONGEST_VARINT):
        byte = body[at + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, at + count + 1
    raise ValueError("a number that is too long")


def _key(value: int | bytes | None) -> str:
    key = _of_bytes(value)
    if len(key) > LONGEST_KEY_BYTES:
        raise ValueError("a key that is too long")
    return key.decode()


def _of_bytes(value: int | bytes | None) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("bytes wanted")
    return value


def _of_varint(value: int | bytes | None) -> int:
    if not isinstance(value, int):
        raise ValueError("a number wanted")
    return value
