"""How a client reaches a cluster: addresses, and what proves who it is."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from millstream.contract.errors import Refused
from millstream.contract.ports import Host
from millstream.kafka.options import KafkaAccessOptions
from millstream.kafka.secrets import FIELD as SECRETS
from millstream.kafka.secrets import read_secrets

BAD_CERTIFICATE = "Provided certificate or private key is invalid"
"""Source: AWS, "Troubleshooting self-managed Apache Kafka event source mapping errors"."""


@dataclass(frozen=True)
class Access:
    """Resolved options: certificates are PEM text. Its repr holds no secret."""

    bootstrap_servers: str
    mechanism: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: str | None = field(default=None, repr=False)
    certificate: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)
    key_password: str | None = field(default=None, repr=False)
    ca_field: str = "ssl_ca_file"  # the options that they come from
    certificate_field: str = "ssl_certificate_file"

    @property
    def protocol(self) -> str:
        """Kafka's security.protocol."""
        transport = "SSL" if self.tls else "PLAINTEXT"
        return transport if self.mechanism is None else f"SASL_{transport}"

    def for_librdkafka(self) -> dict[str, Any]:
        """The connection's part of a librdkafka configuration."""
        found: dict[str, Any] = {
            "bootstrap.servers": self.bootstrap_servers,
            "security.protocol": self.protocol,
            "sasl.mechanism": self.mechanism,
            "sasl.username": self.username,
            "sasl.password": self.password,
            "ssl.ca.pem": self.ca,
            "ssl.certificate.pem": self.certificate,
            "ssl.key.pem": self.key,
            "ssl.key.password": self.key_password,
        }
        return {name: value for name, value in found.items() if value is not None}

    def for_kafka_python(self) -> dict[str, Any]:
        """The connection's part of a kafka-python configuration.

        Raises:
            Refused: a certificate or key cannot be read.
        """
        found: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers.split(","),
            "security_protocol": self.protocol,
        }
        if self.mechanism is not None:
            found |= self.sasl_for_kafka_python()
        if self.tls:
            found["ssl_context"] = self.ssl_context()
        return found

    def sasl_for_kafka_python(self) -> dict[str, Any]:
        """The part that proves who we are by a password."""
        username = self.username or ""
        if self.mechanism != "PLAIN":  # kafka-python leaves it out. Source: RFC 5802, saslname
            username = username.replace("=", "=3D").replace(",", "=2C")
        return {
            "sasl_mechanism": self.mechanism,
            "sasl_plain_username": username,
            "sasl_plain_password": self.password,
        }

    def ssl_context(self) -> ssl.SSLContext:
        """What Python's own TLS needs; raises as the function of this name."""
        client = (self.certificate, self.key, self.key_password)
        return ssl_context(self.ca, *client, self.ca_field, self.certificate_field)


def ssl_context(
    ca: str | None,
    certificate: str | None,
    key: str | None,
    key_password: str | None,
    ca_field: str,
    certificate_field: str,
) -> ssl.SSLContext:
    """What Python's own TLS needs, of PEM texts; the fields are the options that they come from.

    Raises:
        Refused: a certificate or key cannot be read, or one does not fit the other.
    """
    with _certificate_errors(ca_field):
        context = ssl.create_default_context(cadata=ca)
    if certificate is not None and key is not None:
        with _certificate_errors(certificate_field):
            _load(context, f"{certificate}\n{key}", key_password or "")
    return context


@contextmanager
def _certificate_errors(field: str) -> Iterator[None]:
    try:
        yield
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None)
        found = f"{BAD_CERTIFICATE} ({reason})" if reason else BAD_CERTIFICATE
        raise Refused(f"{field}: {found}") from error


def _load(context: ssl.SSLContext, pem: str, password: str) -> None:
    """Give a context a certificate and key, which it takes from a file alone; in memory if it can be."""
    with ExitStack() as stack:
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("certificate")
            stack.callback(os.close, descriptor)
            path = f"/proc/self/fd/{descriptor}"
        else:
            folder = stack.enter_context(TemporaryDirectory())
            path = f"{folder}/certificate"
        Path(path).write_bytes(pem.encode())
        context.load_cert_chain(path, password=password)


def access_of(options: KafkaAccessOptions, bootstrap_servers: str, host: Host) -> Access:
    """What options say; reads their files, and their secrets from Secrets Manager. Blocks.

    Raises:
        Refused: a file or a secret cannot be read, by all of their names.
        SourceUnavailable: Secrets Manager does not answer now.
    """
    problems: list[str] = []
    secrets = read_secrets(options.source_access_configurations or (), host)

    def pem(name: str) -> str | None:
        try:
            return read_pem(name, getattr(options, name))
        except Refused as refused:
            problems.append(str(refused))
            return None

    access = Access(
        bootstrap_servers,
        options.sasl_mechanism or secrets.mechanism,
        options.sasl_username or secrets.username,
        options.sasl_password or secrets.password,
        _has_tls(options),
        pem("ssl_ca_file") or secrets.ca,
        pem("ssl_certificate_file") or secrets.certificate,
        pem("ssl_key_file") or secrets.key,
        options.ssl_key_password or secrets.key_password,
        "ssl_ca_file" if secrets.ca is None else SECRETS,
        "ssl_certificate_file" if secrets.certificate is None else SECRETS,
    )
    if problems:
        raise Refused("\n".join(problems))
    return access


def read_pem(field: str, path: str | None) -> str | None:
    """The text of a PEM file, which the option `field` names. None: none is named.

    Raises:
        Refused: it cannot be read.
    """
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror if isinstance(error, OSError) and error.strerror else "no PEM file"
        raise Refused(f"{field}: {path}: {found}") from error


def _has_tls(options: KafkaAccessOptions) -> bool:
    """By the protocol that is named; without one, as soon as a file for TLS, or any secret, is given.

    Source: AWS, "Configuring authentication for self-managed Apache Kafka": secrets go with TLS.
    """
    if options.security_protocol is not None:
        return options.security_protocol.endswith("SSL")
    given = (options.ssl_ca_file, options.ssl_certificate_file, options.source_access_configurations)
    return any(each is not None for each in given)
