"""Kafka clusters that ask who is there: who is let in, and what is said to who is not, by both libraries."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # they are its public names
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from millstream.contract.clock import SystemClock
from millstream.contract.errors import Refused, SourceUnavailable
from millstream.contract.ports import Host
from millstream.triggers.kafka import KafkaTrigger
from tests.brokers.certificates import Authority
from tests.brokers.kafka_secure import SecureKafka
from tests.brokers.ministack import Ministack
from tests.brokers.relay import Relay
from tests.daemon.conftest import RunningDaemon, wait_until
from tests.daemon.conftest import daemon as daemon
from tests.fakes import FUNCTION, FakeFunction
from tests.triggers.kafka_rig import opened, produce

pytestmark = pytest.mark.broker

GUESS = "hush-c0de"
WITHIN_S = 10.0
SERVER_UNKNOWN = "Lambda failed to authenticate server"
CLIENT_UNKNOWN = "Server failed to authenticate Lambda"
BAD_CERTIFICATE = "Provided certificate or private key is invalid"
SASL_FAILED = "SASL authentication failed"


@pytest.fixture(params=["confluent", "kafka-python"])
def client(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """An authority that nobody knows, and a certificate and a key of it."""
    authority = Authority(tmp_path_factory.mktemp("stranger"))
    return authority.file, *authority.issue("stranger")


def login(kafka: SecureKafka, mechanism: str = "PLAIN", password: str | None = None) -> dict[str, Any]:
    return {
        "sasl_mechanism": mechanism,
        "sasl_username": kafka.username,
        "sasl_password": password or kafka.password,
    }


def certificate(kafka: SecureKafka) -> dict[str, Any]:
    return {
        "bootstrap_servers": kafka.mtls_bootstrap,
        "ssl_ca_file": str(kafka.ca_file),
        "ssl_certificate_file": str(kafka.client_cert_file),
        "ssl_key_file": str(kafka.client_key_file),
    }


def ways_in(kafka: SecureKafka) -> Mapping[str, Mapping[str, Any]]:
    tls = {"ssl_ca_file": str(kafka.ca_file)}
    sealed = {"ssl_key_file": str(kafka.sealed_key_file), "ssl_key_password": kafka.key_password}
    return {
        "PLAIN": {"bootstrap_servers": kafka.sasl_bootstrap, **login(kafka)},
        "SCRAM-SHA-256": {"bootstrap_servers": kafka.sasl_bootstrap, **login(kafka, "SCRAM-SHA-256")},
        "SCRAM-SHA-512": {"bootstrap_servers": kafka.sasl_bootstrap, **login(kafka, "SCRAM-SHA-512")},
        "PLAIN, TLS": {"bootstrap_servers": kafka.sasl_ssl_bootstrap, **login(kafka), **tls},
        "SCRAM-SHA-512, TLS": {
            "bootstrap_servers": kafka.sasl_ssl_bootstrap,
            **login(kafka, "SCRAM-SHA-512"),
            **tls,
        },
        "TLS": {"bootstrap_servers": kafka.ssl_bootstrap, **tls},
        "mTLS": certificate(kafka),
        "mTLS, a key with a password": certificate(kafka) | sealed,
    }


WAYS_IN = (
    "PLAIN",
    "SCRAM-SHA-256",
    "SCRAM-SHA-512",
    "PLAIN, TLS",
    "SCRAM-SHA-512, TLS",
    "TLS",
    "mTLS",
    "mTLS, a key with a password",
)


@pytest.mark.parametrize("way", WAYS_IN)
async def test_each_way_in_leads_to_the_records(
    secure_kafka: SecureKafka, client: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    topic = secure_kafka.create_topic(1)
    produce(secure_kafka.bootstrap, topic, 0, [b"Hello"])
    options = dict(ways_in(secure_kafka)[way])
    async with opened(options.pop("bootstrap_servers"), topic, client=client, **options) as it:
        (lease,) = await it.assigned(count=1)
        (record,) = await it.read(await it.source.reader([lease]), 1)
        assert json.loads(record.event)["value"] == "SGVsbG8="
        keeps_secrets(f"{it.trigger!r} {vars(it.source)}", caplog)


def refusals(
    kafka: SecureKafka, stranger: tuple[Path, Path, Path]
) -> Mapping[str, tuple[Mapping[str, str], str, str]]:
    """Options, the field that is named, and the heading."""
    authority, its_certificate, its_key = map(str, stranger)
    sasl, tls = {"bootstrap_servers": kafka.sasl_bootstrap}, {"bootstrap_servers": kafka.ssl_bootstrap}
    trusted = {"ssl_ca_file": str(kafka.ca_file)}
    servers, theirs = "bootstrap_servers", "ssl_certificate_file"
    sealed = certificate(kafka) | {"ssl_key_file": str(kafka.sealed_key_file)}
    foreign = {"ssl_certificate_file": its_certificate, "ssl_key_file": its_key}
    return {
        "wrong password, PLAIN": (sasl | login(kafka, "PLAIN", GUESS), servers, SASL_FAILED),
        "wrong password, SCRAM-SHA-256": (sasl | login(kafka, "SCRAM-SHA-256", GUESS), servers, SASL_FAILED),
        "wrong password, SCRAM-SHA-512": (sasl | login(kafka, "SCRAM-SHA-512", GUESS), servers, SASL_FAILED),
        "no such user": (sasl | login(kafka) | {"sasl_username": "nobody"}, servers, SASL_FAILED),
        "a listener without SASL": (
            {"bootstrap_servers": kafka.bootstrap, **login(kafka, "PLAIN", GUESS)},
            servers,
            SASL_FAILED,
        ),
        "an authority unknown to the host": (tls | {"security_protocol": "SSL"}, servers, SERVER_UNKNOWN),
        "another authority": (tls | {"ssl_ca_file": authority}, servers, SERVER_UNKNOWN),
        "no client certificate": (
            trusted | {"bootstrap_servers": kafka.mtls_bootstrap},
            servers,
            CLIENT_UNKNOWN,
        ),
        "a foreign client certificate": (certificate(kafka) | foreign, servers, CLIENT_UNKNOWN),
        "a key of another certificate": (
            certificate(kafka) | {"ssl_key_file": its_key},
            theirs,
            BAD_CERTIFICATE,
        ),
        "a key without its password": (sealed, theirs, BAD_CERTIFICATE),
        "a key with a wrong password": (sealed | {"ssl_key_password": GUESS}, theirs, BAD_CERTIFICATE),
        "a key for an authority": (tls | {"ssl_ca_file": its_key}, "ssl_ca_file", BAD_CERTIFICATE),
    }


REFUSALS = (
    "wrong password, PLAIN",
    "wrong password, SCRAM-SHA-256",
    "wrong password, SCRAM-SHA-512",
    "no such user",
    "a listener without SASL",
    "an authority unknown to the host",
    "another authority",
    "no client certificate",
    "a foreign client certificate",
    "a key of another certificate",
    "a key without its password",
    "a key with a wrong password",
    "a key for an authority",
)


@pytest.mark.parametrize("case", REFUSALS)
async def test_each_refusal_has_awss_heading_soon_and_tells_no_secret(
    secure_kafka: SecureKafka,
    stranger: tuple[Path, Path, Path],
    client: str,
    case: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    options, field, heading = refusals(secure_kafka, stranger)[case]
    began_at = time.monotonic()
    with pytest.raises(Refused) as refused:
        await opening(dict(options), client)
    assert time.monotonic() - began_at < WITHIN_S
    place, _, why = str(refused.value).rpartition(": ")
    assert place == (options["bootstrap_servers"] if field == "bootstrap_servers" else field)
    assert why.partition(" (")[0] == heading
    keeps_secrets(f"{refused.value!r} {refused.value}", caplog)


def test_every_way_and_every_refusal_is_tried(
    secure_kafka: SecureKafka, stranger: tuple[Path, Path, Path]
) -> None:
    assert tuple(ways_in(secure_kafka)) == WAYS_IN
    assert tuple(refusals(secure_kafka, stranger)) == REFUSALS


async def opening(options: dict[str, Any], client: str) -> None:
    async with opened(options.pop("bootstrap_servers"), "t", None, client=client, **options):
        pass


def keeps_secrets(text: str, caplog: pytest.LogCaptureFixture) -> None:
    said = text + "".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert all(secret not in said for secret in (SecureKafka.password, SecureKafka.key_password, GUESS))


async def test_a_server_by_another_name_than_its_certificates_is_refused(
    secure_kafka: SecureKafka, client: str
) -> None:
    async with Relay(f"http://{secure_kafka.ssl_bootstrap}") as relay:
        servers = relay.url.removeprefix("http://").replace(
            "127.0.0.1", "127.1"
        )  # the same, written otherwise
        with pytest.raises(Refused, match=SERVER_UNKNOWN):
            await opening({"bootstrap_servers": servers, "ssl_ca_file": str(secure_kafka.ca_file)}, client)


async def test_a_forbidden_topic_is_refused(secure_kafka: SecureKafka, client: str) -> None:
    topic = secure_kafka.create_topic(1)
    secure_kafka.forbid_topic(topic)
    with pytest.raises(Refused, match="Cluster failed to authorize Lambda"):
        async with opened(secure_kafka.sasl_bootstrap, topic, None, client=client, **login(secure_kafka)):
            pass


async def test_a_forbidden_group_is_refused(secure_kafka: SecureKafka, client: str) -> None:
    topic = secure_kafka.create_topic(1)
    secure_kafka.forbid_group(f"g-{topic}")
    async with opened(secure_kafka.sasl_bootstrap, topic, client=client, **login(secure_kafka)) as it:
        with pytest.raises(Refused, match="Cluster failed to authorize Lambda"):
            await it.change()


async def test_a_name_with_the_separators_of_scram_is_let_in(secure_kafka: SecureKafka, client: str) -> None:
    name, word = "o=mill,ou=tests", "hush=,"
    user = UserScramCredentialUpsertion(
        name, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096), word.encode()
    )
    for done in secure_kafka.admin.alter_user_scram_credentials([user]).values():
        done.result(WITHIN_S)
    topic = secure_kafka.create_topic(1)
    options = login(secure_kafka, "SCRAM-SHA-256", word) | {"sasl_username": name}
    async with opened(secure_kafka.sasl_bootstrap, topic, client=client, **options) as it:
        await it.assigned(count=1)


@pytest.mark.filterwarnings(
    "ignore:unclosed <socket:ResourceWarning"
)  # kafka-python's, of a refused connection
async def test_one_server_that_lets_us_in_is_enough(secure_kafka: SecureKafka, client: str) -> None:
    topic = secure_kafka.create_topic(1)
    servers = f"127.0.0.1:1,{secure_kafka.sasl_bootstrap}"
    async with opened(servers, topic, None, client=client, **login(secure_kafka)):
        pass


async def test_what_is_no_kafka_is_unavailable(ministack: Ministack, client: str) -> None:
    with pytest.raises(SourceUnavailable):
        await opening({"bootstrap_servers": ministack.endpoint_url.removeprefix("http://")}, client)


# ---- secrets of AWS Secrets Manager


def secret(ministack: Ministack, name: str) -> Callable[[object], str]:
    """Keeps a secret; its ARN."""

    def keep(value: object) -> str:
        made = ministack.client("secretsmanager").create_secret(Name=name, SecretString=json.dumps(value))
        arn: str = made["ARN"]
        return arn

    return keep


def configurations(kafka: SecureKafka, ministack: Ministack, topic: str) -> Mapping[str, dict[str, Any]]:
    def uri(name: str, value: object) -> str:
        return secret(ministack, f"{topic}-{name}")(value)

    user = uri("login", {"username": kafka.username, "password": kafka.password})
    authority = uri("ca", {"certificate": kafka.ca_file.read_text()})
    key = {"privateKey": kafka.sealed_key_file.read_text(), "privateKeyPassword": kafka.key_password}
    client = uri("client", {"certificate": kafka.client_cert_file.read_text(), **key})
    ca = {"type": "SERVER_ROOT_CA_CERTIFICATE", "uri": authority}
    return {
        "login": {
            "bootstrap_servers": kafka.sasl_ssl_bootstrap,
            "source_access_configurations": [{"type": "SASL_SCRAM_512_AUTH", "uri": user}, ca],
        },
        "login, an authority's file": {
            "bootstrap_servers": kafka.sasl_ssl_bootstrap,
            "source_access_configurations": [{"Type": "BASIC_AUTH", "URI": user}],
            "ssl_ca_file": str(kafka.ca_file),
        },
        "certificate": {
            "bootstrap_servers": kafka.mtls_bootstrap,
            "source_access_configurations": [{"type": "CLIENT_CERTIFICATE_TLS_AUTH", "uri": client}, ca],
        },
    }


@pytest.mark.parametrize("kind", ["login", "login, an authority's file", "certificate"])
async def test_secrets_of_secrets_manager_let_us_in(
    secure_kafka: SecureKafka, ministack: Ministack, client: str, kind: str
) -> None:
    topic = secure_kafka.create_topic(1)
    options = configurations(secure_kafka, ministack, topic)[kind]
    given = {"topic": topic, "starting_position": "TRIM_HORIZON", "client": client}
    trigger = KafkaTrigger.parse(given | options)
    clock = SystemClock()
    host = Host(Path(), clock, FakeFunction(clock), mapping=f"g-{topic}")
    source = await trigger.open(replace(host, endpoint_url=ministack.endpoint_url), FUNCTION)
    try:
        assert secure_kafka.password not in f"{trigger!r} {vars(source)}"
    finally:
        await source.aclose()


# ---- what a user sees

APP = """
from millstream import App, Destination, Kafka

app = App("secure")


@app.function()
def handle(event, context):
    return None


app.map(
    Kafka("t", bootstrap_servers={servers!r}, starting_position="LATEST", sasl_mechanism="PLAIN",
          sasl_username="mill", sasl_password={password!r}, ssl_key_password={password!r}{more}),
    to=handle,
    on_failure=Destination("kafka", "kafka://{servers}/failed", sasl_mechanism="PLAIN",
                           sasl_username="mill", sasl_password={password!r}),
)
"""


def millstream(*arguments: str) -> str:
    """All that a command prints."""
    command = [sys.executable, "-m", "millstream", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("more", ["", ", session_timeout=0", ", sasl_password=7"])
def test_check_tells_no_secret(tmp_path: Path, more: str) -> None:
    app = APP.format(servers="127.0.0.1:1", password=GUESS, more=more)
    if more.startswith(", sasl"):
        app = app.replace(f", sasl_password={GUESS!r}", "")
    (tmp_path / "app.py").write_text(app)
    said = millstream("check", str(tmp_path / "app.py"))
    assert "kafka t" in said
    assert GUESS not in said


def test_a_daemon_shows_the_heading_and_no_secret(secure_kafka: SecureKafka, daemon: RunningDaemon) -> None:
    secure_kafka.create_topic(1, "failed")
    app = APP.format(servers=secure_kafka.sasl_bootstrap, password=GUESS, more="")
    app = app.replace(f"sasl_password={GUESS!r}),\n)", f"sasl_password={secure_kafka.password!r}),\n)")
    daemon.start(app, "--log-format", "json")
    daemon.started()
    wait_until("it says why", lambda: SASL_FAILED in str(daemon.mappings()))
    said = millstream("mappings", "--data-dir", str(daemon.data)) + str(daemon.mappings())
    assert SASL_FAILED in said
    said += daemon.text() + millstream("mappings", "--json", "--data-dir", str(daemon.data))
    assert GUESS not in said
    assert secure_kafka.password not in said
