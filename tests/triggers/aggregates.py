"""Packs records as the Kinesis Producer Library does."""

from __future__ import annotations

from hashlib import md5

from millstream.triggers.kinesis_aggregates import MAGIC


def packed(*records: tuple[str, str | None, bytes]) -> bytes:
    """An aggregate of (partition key, explicit hash key or None, data)."""
    keys = list(dict.fromkeys(key for key, _, _ in records))
    hash_keys = list(dict.fromkeys(key for _, key, _ in records if key is not None))
    body = b"".join(sized(1, key.encode()) for key in keys)
    body += b"".join(sized(2, key.encode()) for key in hash_keys)
    for key, hash_key, data in records:
        record = number(1, keys.index(key))
        if hash_key is not None:
            record += number(2, hash_keys.index(hash_key))
        body += sized(3, record + sized(3, data))
    return sealed(body)


def sealed(body: bytes) -> bytes:
    """The magic, a protobuf message, and its digest."""
    return MAGIC + body + md5(body).digest()


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    """A varint field."""
    return varint(field << 3) + varint(value)


def sized(field: int, value: bytes) -> bytes:
    """A length-delimited field."""
    return varint(field << 3 | 2) + varint(len(value)) + value
