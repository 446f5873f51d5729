"""AMQP 1.0 messages as producers write them, and as nobody should: each is read, or refused in time."""

from __future__ import annotations

import base64
import struct
import time
import tracemalloc
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rstream import AMQPMessage, amqp_decoder

from millstream.triggers.rabbitmq_stream_amqp import (
    DEEPEST,
    MOST_VALUES,
    Milliseconds,
    Unreadable,
    read_message,
)
from millstream.triggers.rabbitmq_stream_messages import StreamRecordMaker

JAVA = base64.b64decode(
    "AFNywQgCowN4LWFUAQBTc9AAAABUAAAADaEDbS0xoAF1oQF0oQFzoQFymAAAAAAAAAABAAAAAAAAAAKjCnRleHQvcGxhaW6jBXV0Zi04"
    "gwAAAAAAAAABgwAAAXSHboAAoQFnUgOhAnJnAFN0wbUioQR0ZXh0oQLDvKEEbG9uZ1UFoQNpbnRU+aEEYnl0ZVEBoQVzaG9ydGH//qEE"
    "Ym9vbEGhBWZsb2F0cj/AAAChBmRvdWJsZYK/0AAAAAAAAKEEY2hhcnMAAAB4oQJ0c4MAAAF0h26Ae6EEdXVpZJgAAAAAAAAAAQAAAAAA"
    "AAACoQNiaW6gAgD/oQNzeW2jAXmhBHVpbnRwgAAABaECdWJQyKECdXNg//+hAnVsgP//////////AFN1oARib2R5"
)
"""A message of RabbitMQ's Java client (0.15, QpidProtonCodec), with all properties and types that it has."""


def sized(small: int, data: bytes) -> bytes:
    """A value of one of the types that come with their length, by its type with a length of one byte."""
    if len(data) < 256:
        return bytes([small, len(data)]) + data
    return bytes([small + 0x10]) + struct.pack(">I", len(data)) + data


def many(small: int, *items: bytes, count: int | None = None) -> bytes:
    """A list or a map of items, by its type with a length of one byte."""
    number, content = len(items) if count is None else count, b"".join(items)
    if len(content) < 255 and number < 256:
        return bytes([small, len(content) + 1, number]) + content
    return bytes([small + 0x10]) + struct.pack(">II", len(content) + 4, number) + content


def section(code: int, value: bytes) -> bytes:
    return b"\x00\x53" + bytes([code]) + value


def text(value: str) -> bytes:
    return sized(0xA1, value.encode())


def nested(levels: int) -> bytes:
    value = b"\x40"
    for _ in range(levels):
        value = many(0xC0, value)
    return value


def value_of(wire: bytes) -> Any:
    return read_message(section(0x77, wire)).value


@pytest.mark.parametrize(
    ("wire", "value"),
    [
        (b"\x40", None),
        (b"\x41", True),
        (b"\x42", False),
        (b"\x56\x01", True),
        (b"\x56\x00", False),
        (b"\x43", 0),
        (b"\x44", 0),
        (b"\x50\xff", 255),
        (b"\x51\xff", -1),
        (b"\x52\xff", 255),
        (b"\x53\xff", 255),
        (b"\x54\xff", -1),
        (b"\x55\xff", -1),
        (b"\x60\xff\xfe", 65534),
        (b"\x61\xff\xfe", -2),
        (b"\x70\xff\xff\xff\xfe", 4294967294),
        (b"\x71\xff\xff\xff\xfe", -2),
        (b"\x80" + b"\xff" * 8, 2**64 - 1),
        (b"\x81" + b"\xff" * 8, -1),
        (b"\x72" + struct.pack(">f", 1.5), 1.5),
        (b"\x82" + struct.pack(">d", -0.1), -0.1),
        (b"\x73\x00\x00\x00x", "x"),
        (b"\x73\x00\x00\xd8\x00", "\ufffd"),
        (b"\x73\x7f\xff\xff\xff", "\ufffd"),
        (b"\x83" + struct.pack(">q", -5), Milliseconds(-5)),
        (b"\x98" + bytes(15) + b"\x07", str(uuid.UUID(int=7))),
        (b"\x74" + bytes(4), None),
        (b"\x84" + bytes(8), None),
        (b"\x94" + bytes(16), None),
        (b"\xa0\x02\x00\xff", b"\x00\xff"),
        (b"\xb0\x00\x00\x00\x01x", b"x"),
        (b"\xa1\x02\xc3\xbc", "ü".encode()),
        (b"\xb1\x00\x00\x00\x01x", b"x"),
        (b"\xa3\x01x", b"x"),
        (b"\xb3\x00\x00\x00\x01x", b"x"),
        (b"\x45", []),
        (b"\xc0\x03\x02\x41\x43", [True, 0]),
        (b"\xd0\x00\x00\x00\x06\x00\x00\x00\x02\x41\x43", [True, 0]),
        (b"\xc1\x05\x02\xa1\x01k\x41", {b"k": True}),
        (b"\xc1\x01\x00", {}),
        (b"\xe0\x05\x03\x50\x01\x02\x03", [1, 2, 3]),
        (b"\xe0\x06\x02\xa1\x01a\x01b", [b"a", b"b"]),
        (b"\xe0\x02\x00\x50", []),
        (b"\xe0\x01\x00", []),
        (b"\xf0\x00\x00\x00\x07\x00\x00\x00\x02\x50\x01\x02", [1, 2]),
        (b"\xe0\x07\x02\x00\x53\x07\x50\x01\x02", [1, 2]),  # its elements are described
        (b"\x00\x53\x07\xa1\x01x", b"x"),  # and so is this
    ],
)
def test_each_type_of_value_is_read(wire: bytes, value: object) -> None:
    found = value_of(wire)
    assert found == value
    assert type(found) is type(value)


def test_a_message_of_the_java_client_is_read() -> None:
    message = read_message(JAVA)
    assert message.data == b"body"
    assert message.annotations == {b"x-a": 1}
    assert message.properties[:4] == [b"m-1", b"u", b"t", b"s"]
    assert message.properties[8:10] == [Milliseconds(1), Milliseconds(1_600_000_000_000)]
    assert message.application == {
        b"text": "ü".encode(),
        b"long": 5,
        b"int": -7,
        b"byte": 1,
        b"short": -2,
        b"bool": True,
        b"float": 1.5,
        b"double": -0.25,
        b"char": "x",
        b"ts": Milliseconds(1_600_000_000_123),
        b"uuid": "00000000-0000-0001-0000-000000000002",
        b"bin": b"\x00\xff",
        b"sym": b"y",
        b"uint": 2**31 + 5,
        b"ub": 200,
        b"us": 65535,
        b"ul": 2**64 - 1,
    }


def test_its_event_has_what_it_holds() -> None:
    event = msgspec.json.decode(StreamRecordMaker("s").record(7, 1, JAVA, 1.0).event)
    properties = event["basicProperties"]
    assert base64.b64decode(event["data"]) == b"body"
    assert properties["correlationId"] == "00000000-0000-0001-0000-000000000002"
    assert properties["timestamp"] == "Sep 13, 2020, 12:26:40 PM"
    assert properties["headers"]["ts"] == "Sep 13, 2020, 12:26:40 PM"
    assert properties["headers"]["ul"] == 2**64 - 1
    assert properties["headers"]["char"] == "x"


@given(
    st.dictionaries(
        st.text(max_size=20),
        st.one_of(
            st.text(max_size=300), st.integers(-(2**31), 2**31 - 1), st.booleans(), st.binary(max_size=300)
        ),
        max_size=20,
    ),
    st.binary(min_size=1, max_size=300),  # it writes nothing of an empty one
)
def test_what_rstream_writes_is_read_as_it_reads_it(given_properties: dict[str, Any], body: bytes) -> None:
    data = bytes(AMQPMessage(body=body, application_properties=given_properties))
    message = read_message(data)
    assert message.data == body
    assert message.application == (amqp_decoder(data).application_properties or {})


def test_a_body_of_several_sections_is_whole() -> None:
    parts = [section(0x75, sized(0xA0, b"x" * size)) for size in (1, 300, 2)]
    assert read_message(b"".join(parts)).data == b"x" * 303
    sequences = read_message(section(0x76, many(0xC0, b"\x41")) * 2).sequences
    assert sequences == [[True], [True]]


def test_sections_that_no_event_shows_and_empty_ones_are_passed_over() -> None:
    others = [section(code, many(0xC1, text("k"), b"\x41")) for code in (0x71, 0x78)]
    empty = [section(code, b"\x40") for code in (0x70, 0x72, 0x73, 0x74)]
    found = read_message(b"".join(others + empty) + section(0x75, sized(0xA0, b"x")))
    assert (found.data, found.application) == (b"x", {})


def test_the_code_of_a_section_may_be_long() -> None:
    assert read_message(b"\x00\x80" + struct.pack(">Q", 0x75) + b"\xa0\x01x").data == b"x"


REFUSED = {
    "no section": b"hello",
    "a section that ends": b"\x00\x53",
    "a section without a value": b"\x00\x53\x77",
    "an unknown section": section(0x79, b"\x40"),
    "data that is a list": section(0x75, b"\x45"),
    "properties that are a map": section(0x73, b"\xc1\x01\x00"),
    "application properties that are a list": section(0x74, b"\x45"),
    "an unknown type": section(0x77, b"\x3f"),
    "another": section(0x77, b"\x99" + bytes(16)),
    "another one, of a length": section(0x77, b"\xa2\x00"),
    "another one, of a count": section(0x77, b"\xc2\x01\x00"),
    "a number that is cut short": section(0x77, b"\x80\x00"),
    "a string that is cut short": section(0x77, b"\xa1\x05abcd"),
    "a length that is cut short": section(0x77, b"\xb1\x00\x00"),
    "a string of 4 GB": section(0x77, b"\xb1\xff\xff\xff\xff"),
    "a list of too many": section(0x77, b"\xc0\x02\x02\x41"),
    "a list beyond its length": section(0x77, b"\xc0\x02\x01\x50\x07"),
    "a list that is no list": section(0x77, b"\xc0\x00"),
    "a map of one": section(0x77, b"\xc1\x02\x01\x41"),
    "a map by a list": section(0x77, b"\xc1\x03\x02\x45\x41"),
    "an array of many nothings": section(0x77, b"\xf0\x00\x00\x00\x05\xff\xff\xff\xff\x40"),
    "an array of few nothings": section(0x77, b"\xe0\x02\x09\x40"),
    "an array without a type": section(0x77, b"\xe0\x01\x01"),
    "an array of described nothing": section(0x77, b"\xe0\x04\x01\x00\x53\x07"),
    "lists within each other": section(0x77, nested(DEEPEST + 1)),
    "a great many of them": section(0x77, nested(3000)),
    "descriptions of descriptions": section(0x77, b"\x00" * 5000 + b"\x40"),
    "more values than are read": section(0x77, many(0xC0, *[b"\x41"] * MOST_VALUES)),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_no_message_is_refused(name: str) -> None:
    with pytest.raises(Unreadable):
        read_message(REFUSED[name])


@pytest.mark.parametrize("name", list(REFUSED))
def test_and_delivered_as_it_came_with_a_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    data = REFUSED[name]
    maker = StreamRecordMaker("s")
    for offset in (7, 8):
        event = msgspec.json.decode(maker.record(offset, 1, data, 1.0).event)
        assert base64.b64decode(event["data"]) == data
        assert event["basicProperties"]["headers"] == {"x-stream-offset": offset}
    assert len(caplog.records) == data.startswith(b"\x00\x53")  # once for both


def test_what_is_as_deep_as_may_be_is_read() -> None:
    found: Any = value_of(nested(DEEPEST))
    for _ in range(DEEPEST):
        (found,) = found
    assert found is None


@pytest.mark.parametrize("bits", [22, 25, 31, 32])
def test_a_count_in_a_few_bytes_costs_neither_time_nor_memory(bits: int) -> None:
    count = struct.pack(">I", 2**bits - 1)
    messages = [section(0x77, bytes([kind]) + b"\0\0\0\x05" + count + b"\x40") for kind in (0xD0, 0xD1, 0xF0)]
    tracemalloc.start()
    try:
        started_at = time.perf_counter()
        for message in messages:
            with pytest.raises(Unreadable):
                read_message(message)
        assert time.perf_counter() - started_at < 0.5
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@given(
    st.one_of(st.binary(max_size=200), st.sampled_from(sorted(REFUSED.values())), st.just(JAVA)), st.data()
)
def test_whatever_the_bytes_a_record_is_made_of_them(data: bytes, drawn: st.DataObject) -> None:
    """Of arbitrary ones, and of messages with a few bytes changed, as a section's or as a value's."""
    changed = bytearray(data[:2000])
    for at in drawn.draw(st.lists(st.integers(0, max(0, len(changed) - 1)), max_size=4)):
        if changed:
            changed[at] = drawn.draw(st.sampled_from([0, 1, 0x40, 0x53, 0x83, 0xA1, 0xC1, 0xD0, 0xF0, 0xFF]))
    for message in (bytes(changed), section(0x77, bytes(changed)), section(0x74, bytes(changed))):
        record = StreamRecordMaker("s").record(7, 1, message, 1.0)
        assert record.refused is None
        assert msgspec.json.decode(record.event)["basicProperties"]["headers"]["x-stream-offset"] == 7


@pytest.mark.parametrize(
    ("properties", "shown"),
    [
        ([text("m")], {"messageId": "m"}),
        ([b"\x80" + b"\xff" * 8], {"messageId": str(2**64 - 1)}),
        ([many(0xC0, text("m"))], {}),
        ([b"\x40"] * 6 + [b"\x45", sized(0xA3, b"utf-8")], {"contentEncoding": "utf-8"}),
        (
            [b"\x40"] * 9 + [b"\x83" + struct.pack(">q", -(2**63))],
            {"timestamp": "May 16, -292275055, 4:47:04 PM"},
        ),
        (
            [b"\x40"] * 9 + [b"\x83" + struct.pack(">q", 2**63 - 1)],
            {"timestamp": "Aug 17, 292278994, 7:12:55 AM"},
        ),
        ([b"\x40"] * 9 + [text("yesterday")], {}),
        ([b"\x41"] * 30, {}),
    ],
)
def test_properties_of_types_that_they_cannot_have_are_left_out(
    properties: list[bytes], shown: dict[str, str]
) -> None:
    data = section(0x73, many(0xC0, *properties)) + section(0x75, sized(0xA0, b"x"))
    event = msgspec.json.decode(StreamRecordMaker("s").record(7, 1, data, 1.0).event)
    found = {name: value for name, value in event["basicProperties"].items() if value is not None}
    del found["headers"], found["bodySize"]
    assert found == shown


def test_a_priority_that_is_no_number_is_left_out() -> None:
    keys = ["delivery-mode", "priority", "type"]
    given_properties = [
        part for key in keys for part in (text(f"x-basic-{key}"), many(0xC1, text("a"), b"\x41"))
    ]
    data = section(0x74, many(0xC1, *given_properties, b"\x54\x01", text("by a number")))
    properties = msgspec.json.decode(StreamRecordMaker("s").record(7, 1, data, 1.0).event)["basicProperties"]
    assert (properties["deliveryMode"], properties["priority"], properties["type"]) == (None, None, None)
    assert properties["headers"] == {"1": {"bytes": list(b"by a number")}, "x-stream-offset": 7}
