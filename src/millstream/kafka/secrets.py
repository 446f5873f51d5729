"""SourceAccessConfigurations: what proves who we are, kept in AWS Secrets Manager."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from millstream.aws.arn import parse_arn
from millstream.aws.clients import client_config, new_session
from millstream.aws.source_errors import source_errors
from millstream.contract import outside_json
from millstream.contract.errors import InvalidConfiguration, Refused
from millstream.contract.ports import Host

FIELD = "source_access_configurations"

MECHANISMS = {
    "BASIC_AUTH": "PLAIN",
    "SASL_SCRAM_256_AUTH": "SCRAM-SHA-256",
    "SASL_SCRAM_512_AUTH": "SCRAM-SHA-512",
}
"""Source: AWS, SourceAccessConfiguration."""

CERTIFICATE, AUTHORITY = "CLIENT_CERTIFICATE_TLS_AUTH", "SERVER_ROOT_CA_CERTIFICATE"

_LOGIN = {"username": "username", "password": "password"}
_KEYS: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(MECHANISMS, _LOGIN),
    CERTIFICATE: {"certificate": "certificate", "privateKey": "key"},
    AUTHORITY: {"certificate": "ca"},
}
"""What a secret of each type must hold, and where it goes.

Source: AWS, "Configuring authentication for self-managed Apache Kafka", secrets.
"""

_KEY_PASSWORD = "privateKeyPassword"  # noqa: S105  a key's name

_REFUSED = frozenset(
    {
        "DecryptionFailure",
        "InvalidParameterException",
        "InvalidRequestException",
        "ResourceNotFoundException",
        "ValidationException",
    }
)
"""Errors that somebody has to mend. Source: AWS, GetSecretValue, errors."""

_ARN = re.compile(r"arn:[a-z-]+:secretsmanager:[a-z0-9-]+:\d{12}:secret:[A-Za-z0-9/_+=.@-]+")


class AccessConfiguration(BaseModel):
    """One of AWS's SourceAccessConfigurations; its keys may be spelled as AWS has them, too."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    type: Literal[
        "BASIC_AUTH",
        "SASL_SCRAM_256_AUTH",
        "SASL_SCRAM_512_AUTH",
        "CLIENT_CERTIFICATE_TLS_AUTH",
        "SERVER_ROOT_CA_CERTIFICATE",
    ]
    uri: str

    @model_validator(mode="before")
    @classmethod
    def _spelled(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError('{"type": …, "uri": …}')
        named = {{"Type": "type", "URI": "uri"}.get(key, key): each for key, each in value.items()}
        if set(named) != {"type", "uri"} or len(named) != len(value):
            raise ValueError('"type" and "uri", and nothing else')
        return named

    @field_validator("uri")
    @classmethod
    def _is_a_secrets(cls, uri: str) -> str:
        if _ARN.fullmatch(uri) is None:
            raise ValueError("a secret's ARN (arn:aws:secretsmanager:us-east-1:123456789012:secret:kafka)")
        return uri


@dataclass(frozen=True)
class Secrets:
    """What the secrets hold; PEM is text. Its repr shows none of it."""

    mechanism: str | None = None
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    ca: str | None = field(default=None, repr=False)
    certificate: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)
    key_password: str | None = field(default=None, repr=False)


def read_secrets(configurations: Sequence[AccessConfiguration], host: Host, field: str = FIELD) -> Secrets:
    """Ask Secrets Manager for all of them, each in its own region; blocks. `field` is the option they are of.

    Raises:
        Refused: with each secret that is missing, refused to us, or without what it must hold.
        SourceUnavailable: Secrets Manager does not answer now.
    """
    found = Secrets()
    problems: list[str] = []
    for one in configurations:
        try:
            held = _held(one, _value(one, host, field), field)
        except (InvalidConfiguration, Refused) as refused:
            problems.append(str(refused))
            continue
        found = replace(found, mechanism=MECHANISMS.get(one.type, found.mechanism), **held)
    if problems:
        raise Refused("\n".join(problems))
    return found


def _value(one: AccessConfiguration, host: Host, field: str) -> object:
    """What a secret holds, as text or bytes."""
    arn = parse_arn(one.uri)
    region = host.region if arn is None else arn.region
    with source_errors(f"{field}.{one.type}", one.uri, _REFUSED):
        make: Any = new_session().client  # by name, which the stubs cannot follow
        client = make(
            "secretsmanager", endpoint_url=host.endpoint_url, region_name=region, config=client_config(1)
        )
        try:
            answer = client.get_secret_value(SecretId=one.uri)
        finally:
            client.close()
    return answer.get("SecretString") or answer.get("SecretBinary")


def _held(one: AccessConfiguration, value: object, field: str) -> dict[str, str]:
    """The fields of Secrets that one secret fills."""
    wanted = _KEYS[one.type]
    try:
        document = outside_json.read(value if isinstance(value, (str, bytes)) else b"")
    except outside_json.NotJson:
        document = None
    if not isinstance(document, dict):
        raise Refused(_problem(one, field, "no JSON object"))
    wrong = [key for key in wanted if not _is_text(document.get(key))]
    if wrong:
        raise Refused("\n".join(_problem(one, field, f'no text under "{key}"') for key in wrong))
    held = {name: document[key] for key, name in wanted.items()}
    if one.type == CERTIFICATE and document.get(_KEY_PASSWORD) is not None:
        held["key_password"] = str(document[_KEY_PASSWORD])
    return held


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _problem(one: AccessConfiguration, field: str, found: str) -> str:
    keys = " and ".join(f'"{key}"' for key in _KEYS[one.type])
    return f"{field}.{one.type}: {one.uri}: wanted {keys}, found {found}"
