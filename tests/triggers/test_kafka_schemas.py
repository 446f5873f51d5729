"""Records against the schemas of a registry: what the function gets, what is refused, what is asked again."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from millstream.contract.clock import SystemClock
from millstream.contract.errors import InvalidConfiguration, SourceUnavailable
from millstream.contract.ports import Host
from millstream.contract.records import Reason, Record
from millstream.triggers import kafka_registry, kafka_schemas
from millstream.triggers.kafka import KafkaTrigger
from millstream.triggers.kafka_records import RecordMaker
from millstream.triggers.kafka_registry import Registry
from millstream.triggers.kafka_schema_options import SchemaRegistryOptions, open_registry
from millstream.triggers.kafka_schemas import Schemas
from tests.brokers.certificates import Authority
from tests.brokers.ministack import Ministack
from tests.brokers.schema_registry import Kept, SchemaRegistry
from tests.contract.destinations_kit import NoInvoker
from tests.triggers.schema_samples import JSON_ORDER, ORDER, PROTO_OTHER, avro, descriptor, framed, proto

HOST = Host(Path("/none"), SystemClock(), NoInvoker(), None, "us-east-1")
PASSWORD = "hush-51ab"
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
        (404, b"<html>nothing here</html>"),
        (404, b'{"error_code":40499}'),
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
    with pytest.raises(InvalidConfiguration, match="serialized form"):
        applied(client, [record(framed(6, b"\0"))])


# ---- options


def options(**given: Any) -> SchemaRegistryOptions:
    declared = {"topic": "t", "bootstrap_servers": "b:1", "starting_position": "LATEST"}
    config = {"schema_validation_configs": ["VALUE"], **given}
    parsed = KafkaTrigger.parse({**declared, "schema_registry_config": config})
    assert parsed.options.schema_registry_config is not None
    assert PASSWORD not in repr(parsed)
    return parsed.options.schema_registry_config


URL = "https://registry.example.com/api"


def test_awss_names_are_taken_as_well() -> None:
    access = [{"Type": "BASIC_AUTH", "URI": "arn:aws:secretsmanager:us-east-1:000000000000:secret:r"}]
    aws = KafkaTrigger.parse(
        {
            "topic": "t",
            "bootstrap_servers": "b:1",
            "starting_position": "LATEST",
            "schema_registry_config": {
                "SchemaRegistryURI": URL,
                "EventRecordFormat": "SOURCE",
                "SchemaValidationConfigs": [{"Attribute": "KEY"}, {"Attribute": "VALUE"}],
                "AccessConfigs": access,
            },
        }
    )
    assert aws.options.schema_registry_config == options(
        schema_registry_uri=URL,
        event_record_format="SOURCE",
        schema_validation_configs=["KEY", "VALUE"],
        access_configs=access,
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "schema_registry_uri"),
        ({"schema_registry_uri": "registry:8081"}, "a Confluent registry's URL"),
        ({"schema_registry_uri": f"https://me:{PASSWORD}@registry"}, "a Confluent registry's URL"),
        ({"schema_registry_uri": f"{URL}?key={PASSWORD}"}, "a Confluent registry's URL"),
        ({"schema_registry_uri": "arn:aws:glue:us-east-1:1:registry/r"}, "a Confluent registry's URL"),
        ({"schema_registry_uri": URL, "event_record_format": "XML"}, "'JSON' or 'SOURCE'"),
        ({"schema_registry_uri": URL, "schema_validation_configs": []}, "at least 1"),
        ({"schema_registry_uri": URL, "schema_validation_configs": ["HEADERS"]}, "'KEY' or 'VALUE'"),
        ({"schema_registry_uri": URL, "schema_validation_configs": "VALUE"}, "a list"),
        ({"schema_registry_uri": URL, "password": 7, "username": "x"}, "a string"),
        ({"schema_registry_uri": URL, "password": PASSWORD}, "username and password together"),
        ({"schema_registry_uri": URL, "key_file": "k"}, "certificate_file and key_file together"),
        ({"schema_registry_uri": URL, "pasword": PASSWORD}, "and nothing else"),
        (
            {
                "schema_registry_uri": URL,
                "access_configs": [{"type": "BASIC_AUTH", "password": PASSWORD}],
            },
            '"type" and "uri"',
        ),
        (
            {
                "schema_registry_uri": URL,
                "access_configs": [
                    {
                        "type": "SASL_SCRAM_512_AUTH",
                        "uri": "arn:aws:secretsmanager:us-east-1:000000000000:secret:r",
                    }
                ],
            },
            "access_configs of BASIC_AUTH",
        ),
    ],
)
def test_a_wrong_registry_is_refused_without_its_secrets(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidConfiguration) as invalid:
        options(**given)
    (problem,) = invalid.value.problems
    assert problem.field.startswith("schema_registry_config")
    assert says in problem.wanted or says in problem.field
    assert PASSWORD not in str(invalid.value)


def opened(url: str, host: Host = HOST, **given: Any) -> None:
    with closing(open_registry(options(schema_registry_uri=url, **given), host)):
        pass


def test_a_registry_is_asked_as_the_mapping_is_opened(registry: SchemaRegistry) -> None:
    opened(registry.url)
    opened(f"{registry.url}/")
    assert registry.asked == ["/schemas/ids/0"] * 2


def test_what_is_no_registry_is_told(registry: SchemaRegistry) -> None:
    registry.fault = (404, b"<html>nothing here</html>")
    with pytest.raises(InvalidConfiguration, match=r"a Confluent schema registry \(http.*HTTP status 404"):
        opened(registry.url)


def test_a_registry_that_does_not_answer_at_open_is_unavailable(registry: SchemaRegistry) -> None:
    registry.close()
    with pytest.raises(SourceUnavailable):
        opened(registry.url)


def test_a_registry_lets_in_who_knows_its_password(registry: SchemaRegistry) -> None:
    registry.login = "Basic " + base64.b64encode(f"mill:{PASSWORD}".encode()).decode()
    opened(registry.url, username="mill", password=PASSWORD)
    with pytest.raises(InvalidConfiguration, match="HTTP status 401"):
        opened(registry.url)
    with pytest.raises(InvalidConfiguration, match="HTTP status 401") as invalid:
        opened(registry.url, username="mill", password="guess")
    assert "guess" not in str(invalid.value)


@pytest.mark.broker
def test_the_password_may_be_a_secret_of_secrets_manager(
    registry: SchemaRegistry, ministack: Ministack
) -> None:
    registry.login = "Basic " + base64.b64encode(f"mill:{PASSWORD}".encode()).decode()
    made = ministack.client("secretsmanager").create_secret(
        Name=f"registry-{id(registry)}",
        SecretString=json.dumps({"username": "mill", "password": PASSWORD}),
    )
    access = [{"type": "BASIC_AUTH", "uri": made["ARN"]}]
    opened(registry.url, replace(HOST, endpoint_url=ministack.endpoint_url), access_configs=access)


def test_files_that_cannot_be_read_are_told(registry: SchemaRegistry, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match=r"schema_registry_config\.ca_file"):
        opened(registry.url, ca_file=str(tmp_path / "nowhere"))
    (tmp_path / "ca.pem").write_text("rubbish")
    with pytest.raises(InvalidConfiguration, match="is invalid"):
        opened(registry.url, ca_file=str(tmp_path / "ca.pem"))


def test_a_registry_of_an_unknown_authority_is_refused(registry: SchemaRegistry, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.issue("registry", server=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    registry.server.socket = context.wrap_socket(registry.server.socket, server_side=True)
    url = registry.url.replace("http:", "https:")
    opened(url, ca_file=str(authority.file))
    with pytest.raises(InvalidConfiguration, match="of a known authority"):
        opened(url)
