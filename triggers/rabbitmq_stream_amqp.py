"""Takes AMQP 1.0 messages apart, as streams hold them. Pure.

A producer chooses every byte, so each count is checked against the bytes that are left, and what a
message may hold and how deeply is bounded: nothing costs more than its own length does.
"""

from __future__ import annotations

import struct
import uuid
from typing import Any, TypeAlias

import msgspec

DEEPEST = 64
"""Lists, maps, arrays and described values within each other, at most."""

MOST_VALUES = 100_000
"""Values in a message, at most; one that has more is left as it is."""

Value: TypeAlias = (
    "bool | int | float | bytes | str | Milliseconds | list[Value] | dict[bytes | str | int, Value] | None"
)
"""A value; strings, symbols and binary are `bytes`, UUIDs and single characters `str`, decimals None."""


class Unreadable(ValueError):
    """The bytes are no message of AMQP 1.0, or one that is beyond the bounds."""


class Milliseconds(int):
    """A time in Unix milliseconds, told from a number."""


class Sections(msgspec.Struct, gc=False):
    """The parts of a message; empty: there is no such part, or nothing in it."""

    header: list[Value] = msgspec.field(default_factory=list)
    annotations: dict[Any, Value] = msgspec.field(default_factory=dict)
    properties: list[Value] = msgspec.field(default_factory=list)
    application: dict[Any, Value] = msgspec.field(default_factory=dict)
    data: bytes | None = None  # the body, if it is of this kind
    sequences: list[Value] = msgspec.field(default_factory=list)  # or of this
    value: Value = None  # or of this


def read_message(data: bytes) -> Sections:
    """The sections of a message.

    Raises:
        Unreadable: it is none.
    """
    reader, sections, at = _Reader(data), Sections(), 0
    while at < len(data):
        code, at = _section(data, at)
        value, at = reader.value(at, len(data), 0)
        match code, value:
            case 0x70, list():
                sections.header = value
            case 0x72, dict():
                sections.annotations = value
            case 0x73, list():
                sections.properties = value
            case 0x74, dict():
                sections.application = value
            case 0x75, bytes():
                sections.data = value if sections.data is None else sections.data + value
            case 0x76, list():
                sections.sequences.append(value)
            case 0x77, _:
                sections.value = value
            case (0x71 | 0x78, _) | (0x70 | 0x72 | 0x73 | 0x74, None):
                pass  # delivery annotations and footer, and sections with nothing in them
            case _:
                raise Unreadable(f"a section 0x{code:x} of another type")
    return sections


def _section(data: bytes, at: int) -> tuple[int, int]:
    """The code of the section that begins at `at`, and where its value begins."""
    start = data[at : at + 2]
    if start == b"\x00\x53" and at + 3 <= len(data):
        return data[at + 2], at + 3
    if start == b"\x00\x80" and at + 10 <= len(data):
        return int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
    raise Unreadable("no section where one must begin")


class _Reader:
    """Reads values out of one message; counts them."""

    __slots__ = ("_data", "_left")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = MOST_VALUES

    def value(self, at: int, end: int, depth: int) -> tuple[Any, int]:
        """The value that begins at `at`, and where the next one does; none of it is behind `end`."""
        if at >= end:
            raise Unreadable("it is cut short")
        return self._of(self._data[at], at + 1, end, depth)

    def _of(self, kind: int, at: int, end: int, depth: int) -> tuple[Any, int]:
        self._left -= 1
        if self._left < 0:
            raise Unreadable(f"more than {MOST_VALUES} values")
        width = _WIDTHS[kind >> 4]
        if kind >> 4 >= 0xA:
            return self._sized(kind, at, end, width, depth)
        after = at + width
        if after > end:
            raise Unreadable("it is cut short")
        number = _NUMBERS.get(kind)
        if number is not None:
            return number.unpack_from(self._data, at)[0], after
        match kind:
            case 0x40 | 0x74 | 0x84 | 0x94:  # null; decimals, which no client of streams writes
                return None, after
            case 0x41 | 0x42:
                return kind == 0x41, after
            case 0x43 | 0x44:
                return 0, after
            case 0x45:
                return [], after
            case 0x56:
                return self._data[at] == 1, after
            case 0x73:
                return _character(int.from_bytes(self._data[at:after], "big")), after
            case 0x83:
                return Milliseconds(int.from_bytes(self._data[at:after], "big", signed=True)), after
            case 0x98:
                return str(uuid.UUID(bytes=self._data[at:after])), after
            case 0x00:
                if depth == DEEPEST:
                    raise Unreadable(f"more than {DEEPEST} values within each other")
                _, at = self.value(at, end, depth + 1)
                return self.value(at, end, depth + 1)
            case _:
                raise Unreadable(f"a value of type 0x{kind:02x}")

    def _sized(self, kind: int, at: int, end: int, width: int, depth: int) -> tuple[Any, int]:
        """A value that says its own length, in `width` bytes, and its count if it holds others."""
        start = at + width
        stop = start + int.from_bytes(self._data[at:start], "big")
        if start > end or stop > end:
            raise Unreadable("it is cut short")
        if kind in _BYTES:
            return self._data[start:stop], stop
        first = start + width
        count = int.from_bytes(self._data[start:first], "big")
        if first > stop or count > stop - first:
            raise Unreadable("fewer values than it says")
        if depth == DEEPEST:
            raise Unreadable(f"more than {DEEPEST} values within each other")
        match kind:
            case 0xC0 | 0xD0:
                return self._list(first, stop, count, depth + 1), stop
            case 0xC1 | 0xD1:
                return self._map(first, stop, count, depth + 1), stop
            case 0xE0 | 0xF0:
                return self._array(first, stop, count, depth + 1), stop
            case _:
                raise Unreadable(f"a value of type 0x{kind:02x}")

    def _list(self, at: int, end: int, count: int, depth: int) -> list[Value]:
        values: list[Value] = []
        for _ in range(count):
            value, at = self.value(at, end, depth)
            values.append(value)
        return values

    def _map(self, at: int, end: int, count: int, depth: int) -> dict[Any, Value]:
        if count % 2:
            raise Unreadable("a map with a key that has no value")
        pairs: dict[Any, Value] = {}
        for _ in range(count // 2):
            key, at = self.value(at, end, depth)
            if isinstance(key, list | dict):
                raise Unreadable("a map whose key is a list or a map")
            pairs[key], at = self.value(at, end, depth)
        return pairs

    def _array(self, at: int, end: int, count: int, depth: int) -> list[Value]:
        if count == 0:
            return []
        kind = self._data[at]
        at += 1
        if kind == 0:  # its elements are described, all alike
            _, at = self.value(at, end, depth)
            if at >= end:
                raise Unreadable("it is cut short")
            kind = self._data[at]
            at += 1
        values: list[Value] = []
        for _ in range(count):
            value, at = self._of(kind, at, end, depth)
            values.append(value)
        return values


def _character(code: int) -> str:
    return chr(code) if code < 0xD800 or 0xDFFF < code < 0x110000 else "\ufffd"


_WIDTHS = (0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 1, 4, 1, 4, 1, 4)
"""Bytes of a value, or of its length, by the upper half of its type. Source: AMQP 1.0, part 1, 1.2."""

_BYTES = frozenset((0xA0, 0xA1, 0xA3, 0xB0, 0xB1, 0xB3))

_NUMBERS = {
    0x50: struct.Struct(">B"),
    0x51: struct.Struct(">b"),
    0x52: struct.Struct(">B"),
    0x53: struct.Struct(">B"),
    0x54: struct.Struct(">b"),
    0x55: struct.Struct(">b"),
    0x60: struct.Struct(">H"),
    0x61: struct.Struct(">h"),
    0x70: struct.Struct(">I"),
    0x71: struct.Struct(">i"),
    0x72: struct.Struct(">f"),
    0x80: struct.Struct(">Q"),
    0x81: struct.Struct(">q"),
    0x82: struct.Struct(">d"),
}
