"""Reads the properties of messages from AMQP's own bytes.

pika's reading cuts the fractions off floating-point headers, closes the connection at one that is
infinite, and does not tell byte arrays from strings.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec

Field: TypeAlias = "bool | int | float | Decimal | bytes | list[Field] | dict[str, Field] | None"
"""A value of a header; a string is `bytes`, as AMQP does not promise that it is UTF-8."""

DEEPEST = 64
"""Levels of tables and arrays within each other that a header may have."""


class ByteArray(bytes):
    """A header of AMQP's type `x`, told from a string."""


class Timestamp(int):
    """A header that is a time, in Unix seconds."""


class Properties(msgspec.Struct, gc=False):
    """AMQP's basic properties; None: not set. `timestamp` is in Unix seconds."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: dict[str, Any] | None = None
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None
    cluster_id: str | None = None
    unread: str | None = None  # why some of them could not be read; those are None


def read_properties(data: bytes, at: int, end: int | None = None) -> Properties:
    """The properties whose flags begin at `at`, out of the bytes before `end` (None: all). Never raises.

    Without any headers, if one of them cannot be read; without what is cut short, and all behind it.
    """
    properties = Properties()
    if end is None:
        end = len(data)
    try:
        flags, at = _flags(data, at, end)
        for name, read in _flagged(flags):
            if read is _table:
                value, at = _headers(data, at, end, properties)
            else:
                value, at = read(data, at, end)
            setattr(properties, name, value)
    except Unreadable as unreadable:
        properties.unread = str(unreadable)
    return properties


class Unreadable(ValueError):
    """Properties that are cut short; a header of a type that RabbitMQ does not have, or nested too deeply."""


def _flags(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The first sixteen flags; further ones, which no property has, are passed over."""
    first = int.from_bytes(data[at : at + 2], "big")
    following = first
    at += 2
    while following & 1 and at < end:
        following = int.from_bytes(data[at : at + 2], "big")
        at += 2
    return first, _within(at, end)


def _headers(data: bytes, at: int, end: int, properties: Properties) -> tuple[dict[str, Field] | None, int]:
    """The headers, and where the next property begins, which their length says whatever is in them."""
    stop = _end_of_long(data, at, end)
    try:
        return _table(data, at, stop)
    except Unreadable as unreadable:
        properties.unread = str(unreadable)
        return None, stop


def _within(at: int, end: int) -> int:
    if at > end:
        raise Unreadable("properties that are cut short")
    return at


def _end_of_long(data: bytes, at: int, end: int) -> int:
    """Where something ends that begins with its length, in four bytes."""
    start = _within(at + 4, end)
    return _within(start + int.from_bytes(data[at:start], "big"), end)


@lru_cache(maxsize=256)
def _flagged(flags: int) -> tuple[tuple[str, _Read], ...]:
    """The properties that a message has, and how each is read."""
    return tuple(named for bit, named in enumerate(_PROPERTIES) if flags >> (15 - bit) & 1)


def _short_string(data: bytes, at: int, end: int) -> tuple[str, int]:
    start = _within(at + 1, end)
    stop = _within(start + data[at], end)
    return data[start:stop].decode("utf-8", "replace"), stop


def _octet(data: bytes, at: int, end: int) -> tuple[int, int]:
    after = _within(at + 1, end)
    return data[at], after


def _time(data: bytes, at: int, end: int) -> tuple[int, int]:
    after = _within(at + 8, end)
    return int.from_bytes(data[at:after], "big"), after


def _table(data: bytes, at: int, end: int, depth: int = 0) -> tuple[dict[str, Field], int]:
    stop = _end_of_long(data, at, end)
    at += 4
    table: dict[str, Field] = {}
    while at < stop:
        key, at = _short_string(data, at, stop)
        table[key], at = _value(data, at, stop, depth)
    return table, stop


def _array(data: bytes, at: int, end: int, depth: int) -> tuple[list[Field], int]:
    stop = _end_of_long(data, at, end)
    at += 4
    values: list[Field] = []
    while at < stop:
        value, at = _value(data, at, stop, depth)
        values.append(value)
    return values, stop


def _value(data: bytes, at: int, end: int, depth: int) -> tuple[Field, int]:
    after = _within(at + 1, end)
    kind = data[at:after]
    nested = _NESTED.get(kind)
    if nested is not None:
        if depth == DEEPEST:
            raise Unreadable(f"more than {DEEPEST} tables or arrays within each other")
        return nested(data, after, end, depth + 1)
    number = _NUMBERS.get(kind)
    if number is not None:
        stop = _within(after + number.size, end)
        value: int | float = number.unpack_from(data, after)[0]
        return value, stop
    read = _OTHERS.get(kind)
    if read is None:
        raise Unreadable(f"a header of type {kind.decode('latin-1')!r}")
    return read(data, after, end)


def _long_string(data: bytes, at: int, end: int) -> tuple[bytes, int]:
    stop = _end_of_long(data, at, end)
    return data[at + 4 : stop], stop


def _byte_array(data: bytes, at: int, end: int) -> tuple[ByteArray, int]:
    value, stop = _long_string(data, at, end)
    return ByteArray(value), stop


def _boolean(data: bytes, at: int, end: int) -> tuple[bool, int]:
    value, stop = _octet(data, at, end)
    return value != 0, stop


def _decimal(data: bytes, at: int, end: int) -> tuple[Decimal, int]:
    stop = _within(at + 5, end)
    value = int.from_bytes(data[at + 1 : stop], "big", signed=True)
    return Decimal(value).scaleb(-data[at]), stop


def _timestamp(data: bytes, at: int, end: int) -> tuple[Timestamp, int]:
    seconds, stop = _time(data, at, end)
    return Timestamp(seconds), stop


def _nothing(data: bytes, at: int, end: int) -> tuple[None, int]:
    return None, at


_Read: TypeAlias = Callable[[bytes, int, int], tuple[Any, int]]

_PROPERTIES: tuple[tuple[str, _Read], ...] = (
    ("content_type", _short_string),
    ("content_encoding", _short_string),
    ("headers", _table),
    ("delivery_mode", _octet),
    ("priority", _octet),
    ("correlation_id", _short_string),
    ("reply_to", _short_string),
    ("expiration", _short_string),
    ("message_id", _short_string),
    ("timestamp", _time),
    ("type", _short_string),
    ("user_id", _short_string),
    ("app_id", _short_string),
    ("cluster_id", _short_string),
)
"""In the order of their flags, from the highest bit on. Source: AMQP 0-9-1, class basic."""

_NUMBERS = {
    b"b": struct.Struct(">b"),
    b"B": struct.Struct(">B"),
    b"s": struct.Struct(">h"),
    b"u": struct.Struct(">H"),
    b"I": struct.Struct(">i"),
    b"i": struct.Struct(">I"),
    b"l": struct.Struct(">q"),
    b"f": struct.Struct(">f"),
    b"d": struct.Struct(">d"),
}
_NESTED: dict[bytes, Callable[[bytes, int, int, int], tuple[Any, int]]] = {b"F": _table, b"A": _array}
_OTHERS: dict[bytes, _Read] = {
    b"S": _long_string,
    b"x": _byte_array,
    b"t": _boolean,
    b"T": _timestamp,
    b"D": _decimal,
    b"V": _nothing,
}
"""Types of headers. Source: RabbitMQ, "AMQP 0-9-1 Errata", field types."""
