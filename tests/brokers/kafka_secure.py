"""A Kafka that asks who is there: listeners with passwords, with TLS, and with certificates of clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # they are its public names
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.brokers.certificates import Authority
from tests.brokers.kafka import WITHIN_S, Kafka, running
from tests.brokers.kafka_server import FILES, Listener
from tests.brokers.ports import free_port

USER, PASSWORD = "mill", "hush-7e42"
KEY_PASSWORD = "hush-9b10"

PLAIN = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
SASL = {
    "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
    "plain.sasl.jaas.config": PLAIN,
    "scram-sha-256.sasl.jaas.config": SCRAM,
    "scram-sha-512.sasl.jaas.config": SCRAM,
}
TLS = {
    "ssl.keystore.type": "PEM",
    "ssl.keystore.location": f"{FILES}/broker.pem",
    "ssl.truststore.type": "PEM",
    "ssl.truststore.location": f"{FILES}/ca.pem",
}
RIGHTS = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
    "super.users": "User:ANONYMOUS",  # who comes by the plain listener: the tests, and the broker itself
}
ITERATIONS = 4096
"""Of SCRAM; the least that Kafka takes."""


class SecureKafka(Kafka):
    """A broker whose user is `username` with `password`, by PLAIN and both SCRAM mechanisms.

    `bootstrap` asks for nothing, and may do everything. `mtls_bootstrap` wants the client's certificate;
    `sealed_key_file` is the same key as `client_key_file`, encrypted with `key_password`.
    """

    username, password, key_password = USER, PASSWORD, KEY_PASSWORD

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder / "authority")
        certificate, key = authority.issue("broker", server=True)
        (folder / "broker.pem").write_text(key.read_text() + certificate.read_text())
        (folder / "ca.pem").write_text(authority.file.read_text())
        self.ca_file = authority.file
        self.client_cert_file, self.client_key_file = authority.issue(USER)
        self.sealed_key_file = authority.sealed(self.client_key_file, KEY_PASSWORD)
        sasl = Listener("SASL", free_port(), "SASL_PLAINTEXT", SASL)
        sasl_ssl = Listener("SASLTLS", free_port(), "SASL_SSL", SASL | TLS)
        ssl = Listener("TLS", free_port(), "SSL", TLS)
        mtls = Listener("MTLS", free_port(), "SSL", TLS | {"ssl.client.auth": "required"})
        self.sasl_bootstrap, self.sasl_ssl_bootstrap = sasl.address, sasl_ssl.address
        self.ssl_bootstrap, self.mtls_bootstrap = ssl.address, mtls.address
        super().__init__(folder, [sasl, sasl_ssl, ssl, mtls], RIGHTS)

    def start(self) -> None:
        super().start()
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            # One a request: Kafka alters a user's credentials at most once in each.
            user = UserScramCredentialUpsertion(
                USER, ScramCredentialInfo(mechanism, ITERATIONS), PASSWORD.encode()
            )
            for done in self.admin.alter_user_scram_credentials([user]).values():
                done.result(WITHIN_S)

    def forbid_topic(self, topic: str) -> None:
        """Its user may not read the topic from now on."""
        self._forbid(ResourceType.TOPIC, topic)

    def forbid_group(self, group: str) -> None:
        """Its user may not join the consumer group from now on."""
        self._forbid(ResourceType.GROUP, group)

    def _forbid(self, kind: ResourceType, name: str) -> None:
        what = (kind, name, ResourcePatternType.LITERAL)
        rule = AclBinding(*what, f"User:{USER}", "*", AclOperation.READ, AclPermissionType.DENY)
        for done in self.admin.create_acls([rule]).values():
            done.result(WITHIN_S)

    def client(self, listener: str) -> Mapping[str, str]:
        """What librdkafka needs for a listener: sasl, sasl_ssl, ssl, mtls."""
        protocol = {"sasl": "SASL_PLAINTEXT", "sasl_ssl": "SASL_SSL"}.get(listener, "SSL")
        found = {"bootstrap.servers": getattr(self, f"{listener}_bootstrap"), "security.protocol": protocol}
        if protocol.startswith("SASL"):
            found |= {"sasl.mechanism": "PLAIN", "sasl.username": USER, "sasl.password": PASSWORD}
        if protocol.endswith("SSL"):
            found["ssl.ca.location"] = str(self.ca_file)
        if listener == "mtls":
            found["ssl.certificate.location"] = str(self.client_cert_file)
            found["ssl.key.location"] = str(self.client_key_file)
        return found


@pytest.fixture(scope="session")
def secure_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """One broker for the session; tests make topics of their own, and leave it running."""
    with running(SecureKafka(tmp_path_factory.mktemp("secure-kafka"))) as broker:
        yield broker
