"""Properties of messages as they are on the wire; encoded here by pika, or by hand where it cannot."""

from __future__ import annotations

import struct
from decimal import Decimal
from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.amqp.wire import DEEPEST, ByteArray, Properties, Timestamp, read_properties

ALL: dict[str, Any] = {
    "content_type": "text/plain",
    "content_encoding": "utf-8",
    "delivery_mode": 2,
    "priority": 34,
    "correlation_id": "c",
    "reply_to": "r",
    "expiration": "60000",
    "message_id": "m",
    "timestamp": 1_600_000_000,
    "type": "t",
    "user_id": "u",
    "app_id": "a",
    "cluster_id": "x",
}


def encoded(**properties: Any) -> bytes:
    return b"".join(pika.BasicProperties(**properties).encode())


def read(table: bytes) -> Properties:
    """What is read of a header table's bytes, with a property behind it."""
    return read_properties(b"\x20\x80" + struct.pack(">I", len(table)) + table + b"\x02id", 0)


def headers(table: bytes) -> dict[str, Any] | None:
    """The headers of it; the property is read whatever they are."""
    properties = read(table)
    assert properties.message_id == "id"
    return properties.headers


def test_each_property_is_read() -> None:
    properties = read_properties(encoded(**ALL), 0)
    assert {name: getattr(properties, name) for name in ALL} == ALL
    assert properties.headers is None


@pytest.mark.parametrize("name", list(ALL))
def test_a_property_alone_is_read_as_itself(name: str) -> None:
    assert read_properties(encoded(**{name: ALL[name]}), 0) == Properties(**{name: ALL[name]})


def test_a_message_without_properties_has_none() -> None:
    assert read_properties(encoded(), 0) == Properties()


@pytest.mark.parametrize(
    ("wire", "value"),
    [
        (b"S\0\0\0\x02\xc3\xbc", "ü".encode()),
        (b"S\0\0\0\x01\xff", b"\xff"),
        (b"x\0\0\0\x02\x00\xff", ByteArray(b"\x00\xff")),
        (b"t\x01", True),
        (b"t\x00", False),
        (b"b\xff", -1),
        (b"B\xff", 255),
        (b"s\xff\xfe", -2),
        (b"u\xff\xfe", 65534),
        (b"I\xff\xff\xff\xfe", -2),
        (b"i\xff\xff\xff\xfe", 4294967294),
        (b"l" + struct.pack(">q", -(2**62)), -(2**62)),
        (b"f" + struct.pack(">f", 1.5), 1.5),
        (b"d" + struct.pack(">d", -0.1), -0.1),
        (b"d" + struct.pack(">d", float("inf")), float("inf")),
        (b"D\x02" + struct.pack(">i", -12345), Decimal("-123.45")),
        (b"T" + struct.pack(">Q", 1_600_000_000), Timestamp(1_600_000_000)),
        (b"V", None),
        (b"A\0\0\0\x04t\x01b\x02", [True, 2]),
        (b"F\0\0\0\x04\x01kb\x02", {"k": 2}),
    ],
)
def test_each_type_of_header_is_read(wire: bytes, value: object) -> None:
    found = headers(b"\x01h" + wire + b"\x01zb\x07")
    assert found == {"h": value, "z": 7}
    assert type(found["h"]) is type(value)


def test_headers_of_a_type_that_nobody_knows_are_left_out_and_the_rest_is_read() -> None:
    found = read(b"\x01h?abc")
    assert (found.headers, found.message_id, found.unread) == (None, "id", "a header of type '?'")


def test_headers_that_are_nested_too_deeply_are_left_out() -> None:
    def nested(levels: int) -> bytes:
        wire = b"t\x01"
        for _ in range(levels):
            wire = b"A" + struct.pack(">I", len(wire)) + wire
        return b"\x01h" + wire

    assert headers(nested(DEEPEST)) is not None
    assert read(nested(DEEPEST)).unread is None
    for levels in (DEEPEST + 1, 10_000):
        found = read(nested(levels))
        assert (found.headers, found.unread) == (None, "more than 64 tables or arrays within each other")


@pytest.mark.parametrize(
    "table",
    [
        b"\x01",  # a name that is cut short
        b"\xffh",
        b"\x01h",  # no value
        b"\x01hl\0\0",  # a value that is cut short
        b"\x01hS\0\0\0\x05abcd",  # and longer than what is left
        b"\x01hS\xff\xff\xff\xff",
        b"\x01hD\x01\0",
        b"\x01ht",
        b"\x01hT\0",
        b"\x01hA\0\0\xff\xff" + b"V" * 9,
        b"\x01hF\0\0\0\x09\x01kV",
        b"\x01hA\0\0\0\x03l\0\0",  # a value that is longer than the array that it is in
    ],
)
def test_headers_that_are_cut_short_are_left_out_and_the_rest_is_read(table: bytes) -> None:
    found = read(table)
    assert (found.headers, found.message_id) == (None, "id")
    assert found.unread == "properties that are cut short"


def test_what_is_cut_short_is_left_out_with_all_behind_it() -> None:
    whole = encoded(content_type="text/plain", headers={"a": "b"}, message_id="m", app_id="app")
    for length in range(len(whole)):
        found = read_properties(whole[:length], 0)
        assert found.unread == "properties that are cut short"
        assert found.content_type in (None, "text/plain")
        assert found.app_id is None


def test_nothing_is_read_beyond_the_end() -> None:
    whole = encoded(headers={"a": "b"}, app_id="app")
    assert read_properties(whole + b"more", 0, len(whole)) == read_properties(whole, 0)
    assert read_properties(whole, 0, len(whole) - 1).app_id is None
    longer = b"\x20\x00" + struct.pack(">I", 100) + b"\x01hV"
    assert read_properties(longer + b"V" * 200, 0, len(longer)).unread is not None


def test_further_flags_are_passed_over() -> None:
    assert read_properties(b"\x00\x09\x00\x01\x00\x00\x01x", 0) == Properties(app_id="x")
    assert read_properties(b"\xff\xff" * 9, 0).unread is not None


@given(st.binary(max_size=200), st.integers(0, 0xFFFF))
def test_whatever_the_bytes_they_are_read_or_left_out(data: bytes, flags: int) -> None:
    read_properties(struct.pack(">H", flags & ~1) + data, 0)
    table = b"\x20\x00" + struct.pack(">I", len(data)) + data
    assert isinstance(read_properties(table, 0).headers, dict | None)
