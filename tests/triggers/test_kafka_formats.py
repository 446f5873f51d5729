"""Data of Avro, JSON Schema and Protobuf, as JSON; and data that is none of these."""

from __future__ import annotations

import json
import threading
import time
from contextlib import nullcontext, suppress
from decimal import Decimal
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto
from hypothesis import given
from hypothesis import strategies as st

from millstream.triggers.kafka_avro import Avro
from millstream.triggers.kafka_formats import NotSerialized, Unfit
from millstream.triggers.kafka_json_schema import JsonSchema
from millstream.triggers.kafka_protobuf import Protobuf
from millstream.triggers.kafka_registry import RegisteredSchema
from tests.triggers.schema_samples import (
    JSON_ORDER,
    MESSAGE,
    ORDER,
    PROTO_ORDER,
    PROTO_OTHER,
    TIMESTAMP,
    avro,
    descriptor,
    field,
    proto,
)


def avro_format(schema: Any, **references: Any) -> Avro:
    texts = {name: json.dumps(one) for name, one in references.items()}
    return Avro(RegisteredSchema("AVRO", json.dumps(schema), texts))


def json_format(schema: Any, references: dict[str, Any] | None = None) -> JsonSchema:
    texts = {name: json.dumps(one) for name, one in (references or {}).items()}
    return JsonSchema(RegisteredSchema("JSON", json.dumps(schema), texts))


def protobuf_format(file: Any, **references: Any) -> Protobuf:
    texts = {f"{name}.proto": descriptor(one) for name, one in references.items()}
    return Protobuf(RegisteredSchema("PROTOBUF", descriptor(file), texts))


# ---- Avro


@pytest.mark.parametrize("odd", ['"default": 1e400', r'"doc": "half of a pair, \ud800"'])
def test_an_avro_schema_is_any_json_that_a_registry_has(odd: str) -> None:
    text = f'{{"type": "record", "name": "R", "fields": [{{"name": "x", "type": "double", {odd}}}]}}'
    assert json.loads(Avro(RegisteredSchema("AVRO", text)).json(bytes(8))) == {"x": 0.0}


@pytest.mark.parametrize(
    ("schema", "value", "text"),
    [
        (ORDER, {"id": 7, "note": "é"}, {"id": 7, "note": "é"}),
        (ORDER, {"id": 2**62, "note": None}, {"id": 2**62, "note": None}),
        ("string", "x", "x"),
        ({"type": "bytes"}, b"\x00\xff", "AP8="),
        ({"type": "fixed", "name": "F", "size": 2}, b"ab", "YWI="),
        ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, "B", "B"),
        ({"type": "array", "items": "int"}, [1, 2], [1, 2]),
        ({"type": "map", "values": "double"}, {"a": 1.5}, {"a": 1.5}),
        ({"type": "long", "logicalType": "timestamp-millis"}, 1_545_084_650_987, 1_545_084_650_987),
        ({"type": "int", "logicalType": "date"}, 17_884, 17_884),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
            Decimal("12.30"),
            "12.30",
        ),
        ({"type": "string", "logicalType": "uuid"}, "not even one", "not even one"),
        (["null", ORDER], {"id": 1, "note": None}, {"id": 1, "note": None}),
    ],
)
def test_avro_becomes_plain_json(schema: Any, value: Any, text: Any) -> None:
    assert json.loads(avro_format(schema).json(avro(schema, value))) == text


def test_a_primitive_type_may_stand_without_quotes() -> None:
    assert Avro(RegisteredSchema("AVRO", "long")).json(avro("long", 5)) == b"5"


def test_avro_finds_what_it_refers_to() -> None:
    union = ["shop.Order", "string"]
    data = avro([ORDER, "string"], {"id": 1, "note": None})
    assert json.loads(avro_format(union, order=ORDER).json(data)) == {"id": 1, "note": None}


@pytest.mark.parametrize("name", ["Whole", "All", "MillstreamOrder"])
def test_avro_types_may_have_any_name(name: str) -> None:
    schema = {"type": "record", "name": name, "fields": [{"name": "id", "type": "int"}]}
    assert avro_format(schema).json(avro(schema, {"id": 1})) == b'{"id":1}'


@pytest.mark.parametrize("cut", [0, 1, 3, -1])
def test_avro_that_is_cut_short_is_unfit(cut: int) -> None:
    data = avro(ORDER, {"id": 1_000_000, "note": "hello"})
    with pytest.raises(Unfit):
        avro_format(ORDER).json(data[:cut])


def test_avro_that_goes_on_is_unfit() -> None:
    with pytest.raises(Unfit):
        avro_format(ORDER).json(avro(ORDER, {"id": 1, "note": None}) + b"\0")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "record", "name": "R"},
        {"type": "strange"},
        "nowhere.Order",
        {"type": "array", "items": "null"},
        {"type": "array", "items": {"type": "record", "name": "Nothing", "fields": []}},
        {"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}},
        [{"type": "record", "name": "N", "fields": []}, {"type": "array", "items": "N"}],
        7,
        None,
    ],
)
def test_an_avro_schema_that_is_none_or_makes_much_of_nothing_is_unfit(schema: Any) -> None:
    with pytest.raises(Unfit):
        avro_format(schema)


def test_an_avro_schema_nested_without_end_is_unfit() -> None:
    text = '{"type":"array","items":' * 20_000 + '"int"' + "}" * 20_000
    with pytest.raises(Unfit):
        Avro(RegisteredSchema("AVRO", text))


LINKED = {"type": "record", "name": "N", "namespace": "x", "fields": [{"name": "n", "type": ["null", "N"]}]}


def test_avro_that_contains_itself_is_read() -> None:
    assert avro_format(LINKED).json(b"\x02\x02\x00") == b'{"n":{"n":{"n":null}}}'


@pytest.mark.parametrize("depth", [1_000, 20_000, 1_000_000])
def test_avro_nested_without_end_is_unfit_and_ends_no_process(depth: int) -> None:
    """In a thread, whose stack is what a hostile record would overrun."""
    said: list[str] = []

    def read() -> None:
        try:
            avro_format(LINKED).json(b"\x02" * depth + b"\x00")
        except Unfit as unfit:
            said.append(str(unfit))

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert said == ["RecursionError"]


@given(st.binary(max_size=60))
def test_no_bytes_make_a_reader_of_avro_raise_anything_else(data: bytes) -> None:
    schema = {
        "type": "record",
        "name": "R",
        "fields": [
            {"name": "a", "type": {"type": "array", "items": ["null", "bytes", "double"]}},
            {"name": "b", "type": {"type": "map", "values": "boolean"}},
            {"name": "c", "type": {"type": "enum", "name": "E", "symbols": ["A"]}},
            {"name": "d", "type": {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}},
        ],
    }
    for each in (schema, LINKED):
        with suppress(Unfit):
            json.loads(avro_format(each).json(data))


def test_a_decimal_of_a_megabyte_is_unfit_at_once() -> None:
    decimals = avro_format({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2})
    began_at = time.monotonic()
    with pytest.raises(Unfit):
        decimals.json(avro("bytes", b"\x7f" * 1_000_000))
    assert time.monotonic() - began_at < 1.0
    assert decimals.json(avro("bytes", b"\x3b\x9a\xc9\xff")) == b'"9999999.99"'


# ---- JSON Schema


def test_json_stays_as_it_is() -> None:
    data = b'{ "note": "\\u00e9",  "id": 7, "more": [1.0] }'
    assert json_format(JSON_ORDER).json(data) == data


@pytest.mark.parametrize(
    "data", [b"", b"{}", b'{"id":"7"}', b"\xff", b'{"id":1', b"[" * 100_000, b'{"id":1}{}']
)
def test_json_that_does_not_fit_is_unfit(data: bytes) -> None:
    with pytest.raises(Unfit):
        json_format(JSON_ORDER).json(data)


@pytest.mark.parametrize("data", [b'{"id":7,"more":"\\ud83d"}', b'{"id":7,"more":1e400}'])
def test_json_that_only_some_readers_take_is_json(data: bytes) -> None:
    assert json_format(JSON_ORDER).json(data) == data


@pytest.mark.parametrize(
    ("items", "unique"),
    [
        ([1, True, 0, False, None, "1", [1], [True], {"a": 1}, {"a": True}], True),
        ([1, 1.0], False),
        ([{"a": [1, {}]}, {"a": [1.0, {}]}], False),
        ([{"a": 1, "b": 2}, {"b": 2, "a": 1}], False),
        ([[], []], False),
        ([True, True], False),
    ],
)
def test_items_are_unique_as_json_schema_says(items: list[Any], unique: bool) -> None:
    unique_items = json_format({"type": "array", "uniqueItems": True})
    with nullcontext() if unique else pytest.raises(Unfit):
        unique_items.json(json.dumps(items).encode())


def test_unique_items_take_a_time_that_grows_with_the_array() -> None:
    unique_items = json_format({"type": "array", "uniqueItems": True})
    began_at = time.monotonic()
    unique_items.json(json.dumps([{"a": number} for number in range(50_000)]).encode())
    assert time.monotonic() - began_at < 20.0  # minutes, where each is compared with each


def test_a_json_schema_finds_what_it_refers_to() -> None:
    schema = {"$id": "http://shop.example/root.json", "properties": {"order": {"$ref": "order.json"}}}
    made = json_format(schema, {"order.json": JSON_ORDER})
    assert made.json(b'{"order":{"id":1}}')
    with pytest.raises(Unfit):
        made.json(b'{"order":{}}')


def test_a_json_schema_fetches_nothing(schema_registry: Any) -> None:
    schema = {"properties": {"order": {"$ref": f"{schema_registry.url}/order.json"}}}
    with pytest.raises(Unfit):
        json_format(schema).json(b'{"order":{}}')
    assert schema_registry.asked == []


@pytest.mark.parametrize("schema", [{"type": "strange"}, {"properties": 7}, 7, None])
def test_a_json_schema_that_is_none_is_unfit(schema: Any) -> None:
    with pytest.raises(Unfit):
        json_format(schema)


def test_a_json_schema_that_refers_to_itself_without_end_is_unfit() -> None:
    with pytest.raises(Unfit):
        json_format({"$ref": "#"}).json(b"{}")


# ---- Protobuf

ORDERS = proto("orders.proto", PROTO_ORDER, PROTO_OTHER, imports=(TIMESTAMP,))
FIRST = b"\x00"
SEVEN = b"\x08\x07\x12\x02hi\x1a\x02\x08\x01"


def test_protobuf_becomes_its_own_json() -> None:
    text = json.loads(protobuf_format(ORDERS).json(FIRST + SEVEN))
    assert text == {"orderId": "7", "note": "hi", "placedAt": "1970-01-01T00:00:01Z"}


@pytest.mark.parametrize(
    ("path", "data", "text"),
    [
        (b"\x02\x00", SEVEN[:2], {"orderId": "7"}),  # one index: 0
        (b"\x02\x02", b"\x0a\x01x", {"text": "x"}),  # one index: 1
        (b"\x04\x00\x00", b"\x0a\x01x", {"article": "x"}),  # nested: 0, 0
        (b"\x00", b"", {}),
    ],
)
def test_the_path_before_protobuf_names_its_message(path: bytes, data: bytes, text: Any) -> None:
    assert json.loads(protobuf_format(ORDERS).json(path + data)) == text


def test_protobuf_finds_what_it_imports() -> None:
    wrapper = DescriptorProto(name="Wrapper", field=[field("order", 1, MESSAGE, ".shop.Order")])
    root = proto("root.proto", wrapper, imports=("orders.proto",), package="top")
    made = protobuf_format(root, orders=ORDERS)
    assert json.loads(made.json(FIRST + b"\x0a\x02\x08\x07")) == {"order": {"orderId": "7"}}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02",
        b"\x02\x08",  # the fifth message
        b"\x04\x00\x08",  # the fifth one nested
        b"\x02\x01" + SEVEN,  # the one before the first
        b"\x01" + SEVEN,
        b"\xff" * 12,
        FIRST + b"\x08",
        FIRST + b"\x12\x02\xff\xfe",  # text that is no UTF-8
        FIRST + b"\x1a\x0a\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # a time after all calendars
    ],
)
def test_protobuf_that_does_not_fit_is_unfit(data: bytes) -> None:
    with pytest.raises(Unfit):
        protobuf_format(ORDERS).json(data)


def test_protobuf_nested_without_end_is_unfit() -> None:
    linked = DescriptorProto(name="N", field=[field("n", 1, MESSAGE, ".shop.N")])
    data = b""
    for _ in range(2000):
        data = b"\x0a" + varint(len(data)) + data
    with pytest.raises(Unfit):
        protobuf_format(proto("n.proto", linked)).json(FIRST + data)


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def test_a_protobuf_schema_that_misses_an_import_is_unfit() -> None:
    with pytest.raises(Unfit):
        protobuf_format(proto("x.proto", PROTO_OTHER, imports=("nowhere.proto",)))


def test_the_text_of_a_protobuf_schema_is_told_apart() -> None:
    with pytest.raises(NotSerialized):
        Protobuf(RegisteredSchema("PROTOBUF", 'syntax = "proto3"; message A {}'))


@given(st.binary(max_size=60))
def test_no_bytes_make_a_reader_of_protobuf_raise_anything_else(data: bytes) -> None:
    with suppress(Unfit):
        json.loads(READER.json(data))


READER = protobuf_format(ORDERS)
