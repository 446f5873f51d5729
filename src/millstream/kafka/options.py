"""Options of every connection to Kafka, by Kafka's own names in snake_case."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from millstream.contract.errors import Problem
from millstream.contract.options import Options
from millstream.kafka.secrets import AUTHORITY, CERTIFICATE, FIELD, MECHANISMS, AccessConfiguration

SERVERS = '"host:port", or a list of them'

SECRET_FIELDS = frozenset({"sasl_password", "ssl_key_password", FIELD})

_LOGIN = ("sasl_mechanism", "sasl_username", "sasl_password")
_TWINS = {
    **dict.fromkeys(MECHANISMS, _LOGIN),
    CERTIFICATE: ("ssl_certificate_file", "ssl_key_file", "ssl_key_password"),
    AUTHORITY: ("ssl_ca_file",),
}
"""Options that say what a secret of a type says."""

_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/,]+):[0-9]{1,5}")


def _servers(value: Any) -> Any:
    """A comma-joined list, as it stands in events."""
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, (list, tuple)) or not given:
        raise ValueError(SERVERS)
    for server in given:
        if not isinstance(server, str) or not is_server(server.strip()):
            raise ValueError(SERVERS)
    return ",".join(server.strip() for server in given)


def is_server(text: str) -> bool:
    """True for `host:port`."""
    return _SERVER.fullmatch(text) is not None and 0 < int(text.rpartition(":")[2]) < 65_536


class KafkaAccessOptions(Options):
    """As whom a cluster is entered, and how it proves who it is."""

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] | None = Field(
        default=None, description='"PLAINTEXT", "SSL", "SASL_PLAINTEXT" or "SASL_SSL"'
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        default=None, description='"PLAIN", "SCRAM-SHA-256" or "SCRAM-SHA-512"'
    )
    sasl_username: str | None = Field(default=None, description="a string")
    sasl_password: str | None = Field(default=None, description="a string", repr=False)
    ssl_ca_file: str | None = Field(default=None, description="a PEM file's path")
    ssl_certificate_file: str | None = Field(default=None, description="a PEM file's path")
    ssl_key_file: str | None = Field(default=None, description="a PEM file's path")
    ssl_key_password: str | None = Field(default=None, description="a string", repr=False)

    source_access_configurations: list[AccessConfiguration] | None = Field(
        default=None,
        description='a list of {"type": "SASL_SCRAM_512_AUTH", "uri": "arn:aws:secretsmanager:…"}',
    )

    def misfits(self) -> list[Problem]:
        problems = super().misfits()
        types = _types(self.source_access_configurations)
        if self.sasl_mechanism is not None:
            for field in ("sasl_username", "sasl_password"):
                if getattr(self, field) is None:
                    problems.append(Problem("", field, "a string beside sasl_mechanism", "nothing"))
        elif not types & set(MECHANISMS) and (self.sasl_username, self.sasl_password) != (None, None):
            wanted = "a mechanism beside a username or password"
            problems.append(Problem("", "sasl_mechanism", wanted, "nothing"))
        if (self.ssl_certificate_file is None) != (self.ssl_key_file is None):
            missing = "ssl_key_file" if self.ssl_key_file is None else "ssl_certificate_file"
            problems.append(Problem("", missing, "the other half of the client's certificate", "nothing"))
        sasl = self.sasl_mechanism is not None or bool(types & set(MECHANISMS))
        if self.security_protocol is not None and self.security_protocol.startswith("SASL") != sasl:
            wanted = "a SASL protocol beside sasl_mechanism, and only there"
            problems.append(Problem("", "security_protocol", wanted, repr(self.security_protocol)))
        return problems + self._twins(types)

    def _twins(self, types: Set[str]) -> list[Problem]:
        """What is said twice: by a secret and by an option, or by two secrets."""
        problems = []
        given = self.source_access_configurations or []
        if len(types) < len(given) or len(types & set(MECHANISMS)) > 1:
            wanted = "each type once, and one way to log in"
            problems.append(Problem("", FIELD, wanted, ", ".join(sorted(map(_type, given)))))
        for kind, names in _TWINS.items():
            if kind in types:
                twins = [name for name in names if getattr(self, name) is not None]
                problems += [Problem("", name, f"none beside {kind}", "one") for name in twins]
        return problems


def _types(configurations: Sequence[object] | None) -> Set[str]:
    return {_type(one) for one in configurations or ()}


def _type(configuration: object) -> str:
    """The type of a configuration, be it as it was declared."""
    if isinstance(configuration, dict):
        return str(configuration.get("type", configuration.get("Type")))
    return str(getattr(configuration, "type", None))


class KafkaConnectionOptions(KafkaAccessOptions):
    """How to reach a cluster, and as whom."""

    bootstrap_servers: Annotated[str, BeforeValidator(_servers)] = Field(description=SERVERS)
