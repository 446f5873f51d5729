"""How a mapping declares a schema registry, and how it is let in."""

from __future__ import annotations

import base64
import json
import ssl
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from millstream.contract.clock import SystemClock
from millstream.contract.errors import InvalidConfiguration, Refused, SourceUnavailable
from millstream.contract.ports import Host
from millstream.triggers.kafka import KafkaTrigger
from millstream.triggers.kafka_schema_options import SchemaRegistryOptions, open_registry
from tests.brokers.certificates import Authority
from tests.brokers.ministack import Ministack
from tests.brokers.schema_registry import Kept, SchemaRegistry
from tests.contract.destinations_kit import NoInvoker
from tests.triggers.schema_samples import JSON_ORDER, ORDER, PROTO_OTHER, descriptor, proto

pytestmark = pytest.mark.broker  # servers on loopback

HOST = Host(Path("/none"), SystemClock(), NoInvoker(), None, "us-east-1")
PASSWORD = "hush-51ab"


@pytest.fixture
def registry(schema_registry: SchemaRegistry) -> SchemaRegistry:
    """One that knows a schema of each kind."""
    schema_registry.add(1, Kept("AVRO", json.dumps(ORDER)))
    schema_registry.add(2, Kept("JSON", json.dumps(JSON_ORDER)))
    schema_registry.add(3, Kept("PROTOBUF", "syntax…", (), descriptor(proto("o.proto", PROTO_OTHER))))
    return schema_registry


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
    with pytest.raises(Refused, match=r"http.*HTTP status 404.*Confluent schema registry"):
        opened(registry.url)


def test_a_registry_that_does_not_answer_at_open_is_unavailable(registry: SchemaRegistry) -> None:
    registry.close()
    with pytest.raises(SourceUnavailable):
        opened(registry.url)


def test_a_registry_lets_in_who_knows_its_password(registry: SchemaRegistry) -> None:
    registry.login = "Basic " + base64.b64encode(f"mill:{PASSWORD}".encode()).decode()
    opened(registry.url, username="mill", password=PASSWORD)
    with pytest.raises(Refused, match="HTTP status 401"):
        opened(registry.url)
    with pytest.raises(Refused, match="HTTP status 401") as invalid:
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
    with pytest.raises(Refused, match=r"schema_registry_config\.ca_file"):
        opened(registry.url, ca_file=str(tmp_path / "nowhere"))
    (tmp_path / "ca.pem").write_text("rubbish")
    with pytest.raises(Refused, match="is invalid"):
        opened(registry.url, ca_file=str(tmp_path / "ca.pem"))


def test_a_registry_of_an_unknown_authority_is_refused(registry: SchemaRegistry, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.issue("registry", server=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    registry.server.socket = context.wrap_socket(registry.server.socket, server_side=True)
    url = registry.url.replace("http:", "https:")
    opened(url, ca_file=str(authority.file))
    with pytest.raises(Refused, match="of no known authority"):
        opened(url)
