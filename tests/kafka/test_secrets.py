"""SourceAccessConfigurations: what is declared, and what AWS Secrets Manager holds."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from millstream.contract.clock import SystemClock
from millstream.contract.errors import InvalidConfiguration, Refused, SourceUnavailable
from millstream.contract.options import parse_options
from millstream.contract.ports import Host
from millstream.kafka.access import Access, access_of
from millstream.kafka.options import SECRET_FIELDS, KafkaAccessOptions
from tests.brokers.ministack import Ministack
from tests.contract.destinations_kit import NoInvoker

SERVERS = "127.0.0.1:9092"
PASSWORD = "hush-31fa"
ARN = "arn:aws:secretsmanager:us-east-1:000000000000:secret:kafka"
LOGIN = {"username": "mill", "password": PASSWORD}
HOST = Host(Path("/none"), SystemClock(), NoInvoker(), None, "us-east-1")


def parsed(**options: Any) -> KafkaAccessOptions:
    return parse_options(KafkaAccessOptions, options, SECRET_FIELDS)


def problems(**options: Any) -> list[str]:
    with pytest.raises(InvalidConfiguration) as invalid:
        parsed(**options)
    return [str(problem) for problem in invalid.value.problems]


def configured(*types: str) -> list[dict[str, str]]:
    return [{"type": kind, "uri": ARN} for kind in types]


def test_awss_spelling_of_keys_is_taken_as_well() -> None:
    ours = parsed(source_access_configurations=configured("BASIC_AUTH"))
    assert parsed(source_access_configurations=[{"Type": "BASIC_AUTH", "URI": ARN}]) == ours


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("BASIC_AUTH", "wanted a list of"),
        (["BASIC_AUTH"], 'wanted {"type": …, "uri": …}'),
        ([{"type": "BASIC_AUTH"}], 'wanted "type" and "uri", and nothing else'),
        ([{"type": "BASIC_AUTH", "uri": ARN, "x": 1}], 'wanted "type" and "uri", and nothing else'),
        ([{"type": "BASIC_AUTH", "Type": "BASIC_AUTH", "uri": ARN}], 'wanted "type" and "uri"'),
        ([{"type": "VPC_SUBNET", "uri": "subnet:1"}], "wanted 'BASIC_AUTH', 'SASL_SCRAM_256_AUTH'"),
        ([{"type": "BASIC_AUTH", "uri": "kafka"}], "wanted a secret's ARN (arn:aws:secretsmanager:"),
        ([{"type": "BASIC_AUTH", "uri": 7}], "uri: wanted a string"),
        ([{"type": "BASIC_AUTH", "username": "mill", "password": PASSWORD}], '"type" and "uri"'),
    ],
)
def test_what_is_no_configuration_is_refused_by_name(given: object, says: str) -> None:
    found = problems(source_access_configurations=given)
    assert says in found[0]
    assert PASSWORD not in found[0]
    assert all(line.startswith("source_access_configurations") for line in found)


@pytest.mark.parametrize(
    ("types", "options", "fields"),
    [
        (("BASIC_AUTH",), {"sasl_mechanism": "PLAIN"} | {f"sasl_{n}": v for n, v in LOGIN.items()}, 3),
        (("SASL_SCRAM_512_AUTH",), {"sasl_password": PASSWORD}, 1),
        (("SERVER_ROOT_CA_CERTIFICATE",), {"ssl_ca_file": "ca.pem"}, 1),
        (("CLIENT_CERTIFICATE_TLS_AUTH",), {"ssl_certificate_file": "c", "ssl_key_file": "k"}, 2),
        (("CLIENT_CERTIFICATE_TLS_AUTH",), {"ssl_key_password": PASSWORD}, 1),
        (("BASIC_AUTH", "SASL_SCRAM_256_AUTH"), {}, 1),
        (("SERVER_ROOT_CA_CERTIFICATE", "SERVER_ROOT_CA_CERTIFICATE"), {}, 1),
        (("BASIC_AUTH",), {"security_protocol": "SSL"}, 1),
        (("SERVER_ROOT_CA_CERTIFICATE",), {"security_protocol": "SASL_SSL"}, 1),
    ],
)
def test_what_is_said_twice_or_apart_is_refused(
    types: tuple[str, ...], options: dict[str, str], fields: int
) -> None:
    found = problems(source_access_configurations=configured(*types), **options)
    assert len(found) == fields
    assert PASSWORD not in "".join(found)


def test_problems_of_other_options_are_told_beside_those_of_configurations() -> None:
    found = problems(
        source_access_configurations=[{"Type": "BASIC_AUTH", "URI": ARN}],
        sasl_mechanism="GSSAPI",
        sasl_password=PASSWORD,
    )
    assert [line.partition(":")[0].partition(" ")[0] for line in found] == ["sasl_mechanism", "sasl_password"]


# ---- Secrets Manager itself


class Vault:
    """Secrets of one test."""

    def __init__(self, ministack: Ministack) -> None:
        self._client = ministack.client("secretsmanager")
        self.host = replace(HOST, endpoint_url=ministack.endpoint_url)

    def put(self, value: object) -> str:
        """A new secret's ARN; what is neither text nor bytes becomes JSON."""
        name = f"kafka-{uuid.uuid4().hex[:8]}"
        kind = "SecretBinary" if isinstance(value, bytes) else "SecretString"
        text = value if isinstance(value, (str, bytes)) else json.dumps(value)
        arn: str = self._client.create_secret(Name=name, **{kind: text})["ARN"]
        return arn

    def access(self, protocol: str | None = None, **secrets: str) -> Access:
        given = [{"type": kind, "uri": uri} for kind, uri in secrets.items()]
        options = parsed(source_access_configurations=given, security_protocol=protocol)
        return access_of(options, SERVERS, self.host)

    def refused(self, **secrets: str) -> list[str]:
        with pytest.raises(Refused) as refused:
            self.access(**secrets)
        found = str(refused.value).splitlines()
        assert PASSWORD not in "".join(found)
        return found


@pytest.fixture
def vault(ministack: Ministack) -> Vault:
    return Vault(ministack)


@pytest.mark.broker
@pytest.mark.parametrize(
    ("kind", "mechanism"),
    [
        ("BASIC_AUTH", "PLAIN"),
        ("SASL_SCRAM_256_AUTH", "SCRAM-SHA-256"),
        ("SASL_SCRAM_512_AUTH", "SCRAM-SHA-512"),
    ],
)
def test_a_login_is_read_from_its_secret(vault: Vault, kind: str, mechanism: str) -> None:
    access = vault.access(**{kind: vault.put(LOGIN)})
    assert (access.mechanism, access.username, access.password) == (mechanism, "mill", PASSWORD)
    assert access.protocol == "SASL_SSL"
    assert PASSWORD not in repr(access)


@pytest.mark.broker
def test_a_login_may_be_kept_as_bytes(vault: Vault) -> None:
    assert vault.access(BASIC_AUTH=vault.put(json.dumps(LOGIN).encode())).password == PASSWORD


@pytest.mark.broker
def test_a_login_goes_without_tls_only_where_that_is_said(vault: Vault) -> None:
    arn = vault.put(LOGIN)
    assert vault.access("SASL_PLAINTEXT", BASIC_AUTH=arn).protocol == "SASL_PLAINTEXT"
    assert vault.access(BASIC_AUTH=arn).protocol == "SASL_SSL"


@pytest.mark.broker
def test_certificates_are_read_from_their_secrets(vault: Vault) -> None:
    client = {"certificate": "C", "privateKey": "K", "privateKeyPassword": PASSWORD}
    access = vault.access(
        CLIENT_CERTIFICATE_TLS_AUTH=vault.put(client),
        SERVER_ROOT_CA_CERTIFICATE=vault.put({"certificate": "A"}),
    )
    assert (access.certificate, access.key, access.key_password, access.ca) == ("C", "K", PASSWORD, "A")
    assert access.protocol == "SSL"
    assert PASSWORD not in repr(access)


@pytest.mark.broker
@pytest.mark.parametrize(
    ("value", "says"),
    [
        (PASSWORD, ["no JSON object"]),
        ([PASSWORD], ["no JSON object"]),
        (b"\xff" + PASSWORD.encode(), ["no JSON object"]),
        ({"username": "mill", "secret": PASSWORD}, ['no text under "password"']),
        ({"username": "", "password": 7}, ['no text under "username"', 'no text under "password"']),
    ],
)
def test_a_secret_that_does_not_hold_a_login_is_told_without_its_value(
    vault: Vault, value: object, says: list[str]
) -> None:
    arn = vault.put(value)
    wanted = f'source_access_configurations.BASIC_AUTH: {arn}: wanted "username" and "password"'
    assert vault.refused(BASIC_AUTH=arn) == [f"{wanted}, found {each}" for each in says]


@pytest.mark.broker
def test_each_secret_that_is_wrong_is_told(vault: Vault) -> None:
    found = vault.refused(BASIC_AUTH=f"{ARN}-nowhere", SERVER_ROOT_CA_CERTIFICATE=vault.put({"ca": "A"}))
    assert [line.replace(":", " ").split()[0] for line in found] == [
        "source_access_configurations.BASIC_AUTH",
        "source_access_configurations.SERVER_ROOT_CA_CERTIFICATE",
    ]
    assert "ResourceNotFoundException" in found[0]
    assert 'no text under "certificate"' in found[1]


@pytest.mark.broker
def test_what_is_no_certificate_is_told_as_the_secrets_fault(vault: Vault) -> None:
    access = vault.access(SERVER_ROOT_CA_CERTIFICATE=vault.put({"certificate": PASSWORD}))
    with pytest.raises(Refused, match=r"^source_access_configurations: .*is invalid$") as refused:
        access.ssl_context()
    assert PASSWORD not in str(refused.value)


@pytest.mark.broker
def test_secrets_manager_that_does_not_answer_is_unavailable(vault: Vault) -> None:
    vault.host = replace(HOST, endpoint_url="http://127.0.0.1:1")
    with pytest.raises(SourceUnavailable):
        vault.access(BASIC_AUTH=ARN)
