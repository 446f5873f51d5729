"""Records against the schemas of a registry: what the function gets, what is refused, what is asked again."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest

from millstream.contract.errors import Refused, SourceUnavailable
from millstream.contract.records import Reason, Record
from millstream.triggers import kafka_registry, kafka_schemas
from millstream.triggers.kafka_records import RecordMaker
from millstream.triggers.kafka_registry import Registry
from millstream.triggers.kafka_schemas import Schemas
from tests.brokers.schema_registry import Kept, SchemaRegistry
from tests.triggers.schema_samples import JSON_ORDER, ORDER, PROTO_OTHER, avro, descriptor, framed, proto

pytestmark = pytest.mark.broker  # servers on loopback

MAKER = RecordMaker("orders")
ONE = framed(1, avro(ORDER, {"id": 7, "note": None}))


def record(value: bytes | None, key: bytes | None = None, offset: int = 0) -> Record:
    return MAKER.record(0, offset, "CREATE_TIME", 1_000, key, value, [("h", b"x")], 0.0)


@pytest.fixture
def registry(schema_registry: SchemaRegistry) -> SchemaRegistry:
    """One that knows a schema of each kind."""
    schema_registry.add(1, Kept("AVRO", json.dumps(ORDER)))
    schema_registry.add(2, Kept("JSON", json.dumps(JSON_ORDER)))
    schema_registry.add(3, Kept("PROTOBUF", "syntax…", (), descriptor(proto("o.proto", PROTO_OTHER))))
    return schema_registry


@pytest.fixture
def client(registry: SchemaRegistry) -> Iterator[Registry]:
    with closing(Registry(registry.url, {}, None)) as made:
        yield made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_schemas, "NEW_SCHEMA_S", 0.01)


def applied(client: Registry, records: Sequence[Record], *attributes: str, as_json: bool = True) -> list[Any]:
    """Events of the records, or why they are refused."""
    found = Schemas(client, attributes or ("value",), as_json).applied(records)
    return [json.loads(one.event) if one.refused is None else one.refused for one in found]


def text(encoded: str) -> Any:
    return json.loads(base64.b64decode(encoded))


@pytest.mark.parametrize(
    ("value", "kind", "wanted"),
    [
        (ONE, "AVRO", {"id": 7, "note": None}),
        (framed(2, b'{"id": 7}'), "JSON", {"id": 7}),
        (framed(3, b"\0\x0a\x01x"), "PROTOBUF", {"text": "x"}),
    ],
)
def test_each_format_becomes_json(client: Registry, value: bytes, kind: str, wanted: object) -> None:
    (event,) = applied(client, [record(value)])
    assert text(event["value"]) == wanted
    assert event["valueSchemaMetadata"] == {"dataFormat": kind, "schemaId": str(value[4])}


def test_an_event_has_the_metadata_of_its_schemas_last(client: Registry) -> None:
    ((event),) = applied(client, [record(ONE, framed(2, b'{"id":1}'))], "key", "value")
    assert list(event)[-3:] == ["headers", "keySchemaMetadata", "valueSchemaMetadata"]
    plain = json.loads(record(ONE, b"k").event)
    assert {name: event[name] for name in plain if name not in ("key", "value")} == {
        name: plain[name] for name in plain if name not in ("key", "value")
    }


def test_the_source_format_leaves_the_bytes_without_their_prefix(client: Registry) -> None:
    records = [record(ONE), record(framed(3, b"\0\x0a\x01x"))]
    first, second = applied(client, records, as_json=False)
    assert base64.b64decode(first["value"]) == ONE[5:]
    assert base64.b64decode(second["value"]) == b"\0\x0a\x01x"
    assert first["valueSchemaMetadata"] == {"dataFormat": "AVRO", "schemaId": "1"}


def test_an_attribute_that_is_not_chosen_stays_as_it_is(client: Registry) -> None:
    ((event),) = applied(client, [record(ONE, b"any key")])
    assert base64.b64decode(event["key"]) == b"any key"
    assert "keySchemaMetadata" not in event


def test_no_schema_is_about_a_missing_key_or_a_tombstone(client: Registry) -> None:
    ((event),) = applied(client, [record(None)], "key", "value")
    assert (event["value"], "key" in event, "valueSchemaMetadata" in event) == (None, False, False)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", Reason.DESERIALIZATION_ERROR),
        (b"\0\0\0\0", Reason.DESERIALIZATION_ERROR),
        (b'{"id":7}', Reason.DESERIALIZATION_ERROR),
        (b"\1" + ONE[1:], Reason.DESERIALIZATION_ERROR),
        (ONE[:-1], Reason.DESERIALIZATION_ERROR),
        (framed(2, b'{"id":"x"}'), Reason.DESERIALIZATION_ERROR),
        (framed(3, b"\0\x0a"), Reason.DESERIALIZATION_ERROR),
        (framed(9, b"x"), Reason.SCHEMA_NOT_FOUND),
        (framed(2**32 - 1, b"x"), Reason.SCHEMA_NOT_FOUND),
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_what_has_no_schema_or_does_not_fit_is_refused(
    client: Registry, value: bytes, reason: Reason, as_json: bool
) -> None:
    assert applied(client, [record(value)], as_json=as_json) == [reason]


def test_a_refused_record_stays_as_it_came_and_the_others_keep_their_order(client: Registry) -> None:
    records = [record(ONE, offset=0), record(b"bad", offset=1), record(ONE, offset=2)]
    found = Schemas(client, ("value",), True).applied(records)
    assert [one.position for one in found] == ["0", "1", "2"]
    assert found[1] == Record(
        **{name: getattr(records[1], name) for name in Record.__struct_fields__ if name != "refused"},
        refused=Reason.DESERIALIZATION_ERROR,
    )


def test_a_schema_that_is_not_understood_refuses_its_records(
    client: Registry, registry: SchemaRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.add(4, Kept("AVRO", '{"type":"strange"}'))
    registry.add(5, Kept("XML", "<x/>"))
    records = [record(framed(number, b"x")) for number in (4, 5, 4)]
    assert applied(client, records) == [Reason.DESERIALIZATION_ERROR] * 3
    assert [vars(one)["schema"] for one in caplog.records] == [4, 5]  # once each


def test_a_schema_is_asked_for_once(client: Registry, registry: SchemaRegistry) -> None:
    schemas = Schemas(client, ("value",), True)
    for _ in range(3):
        schemas.applied([record(ONE)] * 5)
    assert registry.asked == ["/schemas/ids/1"]


def test_a_missing_schema_is_asked_for_again_only_after_a_while(
    client: Registry, registry: SchemaRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    schemas = Schemas(client, ("value",), True)
    for _ in range(3):
        schemas.applied([record(framed(9, b"x"))] * 5)
    assert registry.asked == ["/schemas/ids/9"] * 2  # it might have been a new one
    registry.add(9, Kept("AVRO", '"string"'))
    monkeypatch.setattr(kafka_schemas, "MISSING_S", 0.0)
    schemas._missing.clear()
    assert schemas.applied([record(framed(9, b"\x02x"))])[0].refused is None


def test_a_schema_that_is_new_is_waited_for(client: Registry, registry: SchemaRegistry) -> None:
    class Late(Registry):
        def schema(self, number: int) -> kafka_registry.RegisteredSchema | None:
            found = super().schema(number)
            registry.add(9, Kept("AVRO", '"string"'))
            return found

    with closing(Late(registry.url, {}, None)) as late:
        ((event),) = applied(late, [record(framed(9, b"\x02x"))])
    assert text(event["value"]) == "x"


def test_few_schemas_are_kept(
    client: Registry, registry: SchemaRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_schemas, "MAX_SCHEMAS", 2)
    schemas = Schemas(client, ("value",), True)
    schemas.applied([record(ONE), record(framed(2, b'{"id":1}')), record(framed(3, b"\0")), record(ONE)])
    assert registry.asked.count("/schemas/ids/1") == 2


@pytest.mark.parametrize(
    ("kind", "inner", "outer", "value", "wanted"),
    [
        ("AVRO", json.dumps(ORDER), '["null","shop.Order"]', b"\x02" + ONE[5:], {"id": 7, "note": None}),
        (
            "JSON",
            json.dumps(JSON_ORDER),
            '{"properties":{"o":{"$ref":"order"}}}',
            b'{"o":{"id":1}}',
            {"o": {"id": 1}},
        ),
    ],
)
def test_references_are_followed(
    client: Registry,
    registry: SchemaRegistry,
    kind: str,
    inner: str,
    outer: str,
    value: bytes,
    wanted: object,
) -> None:
    registry.versions["orders/value", 3] = Kept(kind, inner)
    registry.add(7, Kept(kind, outer, [("order", "orders/value", 3)]))
    ((event),) = applied(client, [record(framed(7, value))])
    assert text(event["value"]) == wanted
    assert "/subjects/orders%2Fvalue/versions/3" in registry.asked


def test_references_that_refer_to_each_other_end(client: Registry, registry: SchemaRegistry) -> None:
    registry.versions["a", 1] = Kept("AVRO", '"int"', [("b", "b", 1)])
    registry.versions["b", 1] = Kept("AVRO", '"int"', [("a", "a", 1)])
    registry.add(7, Kept("AVRO", '"int"', [("a", "a", 1)]))
    with pytest.raises(SourceUnavailable, match="too many references"):
        applied(client, [record(framed(7, b"\0"))])


@pytest.mark.parametrize(
    "fault",
    [
        (500, b"{}"),
        (503, b""),
        (429, b"{}"),
        (200, b"<html>"),
        (200, b"[]"),
        (302, b"http://127.0.0.1:1/"),
        (200, b"[" * 100_000),
    ],
)
def test_a_registry_that_does_not_answer_as_one_is_unavailable_and_no_record_is_refused(
    client: Registry, registry: SchemaRegistry, fault: tuple[int, bytes]
) -> None:
    schemas = Schemas(client, ("value",), True)
    registry.fault = fault
    with pytest.raises(SourceUnavailable, match="schema registry http://127"):
        schemas.applied([record(ONE)])
    registry.fault = None
    assert schemas.applied([record(ONE)])[0].refused is None


@pytest.mark.parametrize("fault", [(404, b"<html>nothing here</html>"), (404, b'{"error_code":40499}')])
def test_a_registry_that_is_not_there_any_more_is_refused_and_no_record_is(
    client: Registry, registry: SchemaRegistry, fault: tuple[int, bytes]
) -> None:
    schemas = Schemas(client, ("value",), True)
    registry.fault = fault
    with pytest.raises(Refused, match=r"http://127.*HTTP status 404"):
        schemas.applied([record(ONE)])
    registry.fault = None
    assert schemas.applied([record(ONE)])[0].refused is None


def test_an_answer_too_large_is_not_kept(
    client: Registry, registry: SchemaRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_registry, "MAX_ANSWER_BYTES", 1000)
    registry.add(8, Kept("AVRO", "x" * 2000))
    with pytest.raises(SourceUnavailable, match="too large"):
        applied(client, [record(framed(8, b"x"))])


def test_a_registry_that_is_gone_is_unavailable(client: Registry, registry: SchemaRegistry) -> None:
    registry.close()
    with pytest.raises(SourceUnavailable):
        applied(client, [record(ONE)])


def test_a_registry_without_serialized_protobuf_is_told(client: Registry, registry: SchemaRegistry) -> None:
    registry.add(6, Kept("PROTOBUF", 'syntax = "proto3"; message A {}'))
    with pytest.raises(Refused, match="serialized form"):
        applied(client, [record(framed(6, b"\0"))])
