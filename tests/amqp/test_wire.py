"""Properties of messages as they are on the wire; encoded here by pika, or by hand where it cannot."""

from __future__ import annotations

import struct
from decimal import Decimal
from typing import Any

import pika
import pytest

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


def headers(table: bytes) -> dict[str, Any] | None:
    """What is read of a header table's bytes, with a property behind it."""
    data = b"\x20\x80" + struct.pack(">I", len(table)) + table + b"\x02id"
    properties = read_properties(data, 0)
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


def test_headers_of_a_type_that_nobody_knows_are_left_out_and_the_rest_is_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert headers(b"\x01h?abc") is None
    assert "headers of a message not read" in caplog.text


def test_headers_that_are_nested_too_deeply_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def nested(levels: int) -> bytes:
        wire = b"t\x01"
        for _ in range(levels):
            wire = b"A" + struct.pack(">I", len(wire)) + wire
        return b"\x01h" + wire

    assert headers(nested(DEEPEST)) is not None
    assert not caplog.text
    assert headers(nested(DEEPEST + 1)) is None
    assert headers(nested(10_000)) is None
    assert "headers of a message not read" in caplog.text
