"""Reads the properties of messages from AMQP's own bytes.

pika's reading cuts the fractions off floating-point headers, closes the connection at one that is
infinite, and does not tell byte arrays from strings.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec

logger = logging.getLogger(__name__)

Field: TypeAlias = "bool | int | float | Decimal | bytes | list[Field] | dict[str, Field] | None"
"""A value of a header; a string is `bytes`, as AMQP does not promise that it is UTF-8."""

_LONG = struct.Struct(">Q")


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


def read_properties(data: bytes, at: int) -> Properties:
    """The properties whose flags begin at `at`; without any headers, if one of them cannot be read."""
    properties = Properties()
    flags = data[at] << 8 | data[at + 1]
    at += 2
    for name, read in _flagged(flags):
        try:
            value, at = read(data, at)
        except Unreadable as unreadable:
            logger.warning("headers of a message not read", extra={"why": str(unreadable)})
            value, at = None, at + 4 + int.from_bytes(data[at : at + 4], "big")
        setattr(properties, name, value)
    return properties


class Unreadable(ValueError):
    """A header of a type that RabbitMQ does not have, or nested too deeply to be written as JSON."""


@lru_cache(maxsize=256)
def _flagged(flags: int) -> tuple[tuple[str, _Read], ...]:
    """The properties that a message has, and how each is read."""
    return tuple(named for bit, named in enumerate(_PROPERTIES) if flags >> (15 - bit) & 1)


def _short_string(data: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + data[at]
    return data[at + 1 : end].decode("utf-8", "replace"), end


def _octet(data: bytes, at: int) -> tuple[int, int]:
    return data[at], at + 1


def _time(data: bytes, at: int) -> tuple[int, int]:
    seconds: int = _LONG.unpack_from(data, at)[0]
    return seconds, at + 8


def _table(data: bytes, at: int, depth: int = 0) -> tuple[dict[str, Field], int]:
    end = at + 4 + int.from_bytes(data[at : at + 4], "big")
    at += 4
    table: dict[str, Field] = {}
    while at < end:
        key, at = _short_string(data, at)
        table[key], at = _value(data, at, depth)
    return table, end


def _array(data: bytes, at: int, depth: int) -> tuple[list[Field], int]:
    end = at + 4 + int.from_bytes(data[at : at + 4], "big")
    at += 4
    values: list[Field] = []
    while at < end:
        value, at = _value(data, at, depth)
        values.append(value)
    return values, end


def _value(data: bytes, at: int, depth: int) -> tuple[Field, int]:
    kind = data[at : at + 1]
    nested = _NESTED.get(kind)
    if nested is not None:
        if depth == DEEPEST:
            raise Unreadable(f"more than {DEEPEST} tables or arrays within each other")
        return nested(data, at + 1, depth + 1)
    number = _NUMBERS.get(kind)
    if number is not None:
        value: int | float = number.unpack_from(data, at + 1)[0]
        return value, at + 1 + number.size
    read = _OTHERS.get(kind)
    if read is None:
        raise Unreadable(f"a header of type {kind.decode('latin-1')!r}")
    return read(data, at + 1)


def _long_string(data: bytes, at: int) -> tuple[bytes, int]:
    end = at + 4 + int.from_bytes(data[at : at + 4], "big")
    return data[at + 4 : end], end


def _byte_array(data: bytes, at: int) -> tuple[ByteArray, int]:
    value, end = _long_string(data, at)
    return ByteArray(value), end


def _boolean(data: bytes, at: int) -> tuple[bool, int]:
    return data[at] != 0, at + 1


def _decimal(data: bytes, at: int) -> tuple[Decimal, int]:
    value = int.from_bytes(data[at + 1 : at + 5], "big", signed=True)
    return Decimal(value).scaleb(-data[at]), at + 5


def _timestamp(data: bytes, at: int) -> tuple[Timestamp, int]:
    seconds, end = _time(data, at)
    return Timestamp(seconds), end


def _nothing(data: bytes, at: int) -> tuple[None, int]:
    return None, at


_Read: TypeAlias = Callable[[bytes, int], tuple[Any, int]]

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
_NESTED: dict[bytes, Callable[[bytes, int, int], tuple[Any, int]]] = {b"F": _table, b"A": _array}
_OTHERS: dict[bytes, _Read] = {
    b"S": _long_string,
    b"x": _byte_array,
    b"t": _boolean,
    b"T": _timestamp,
    b"D": _decimal,
    b"V": _nothing,
}
"""Types of headers. Source: RabbitMQ, "AMQP 0-9-1 Errata", field types."""
