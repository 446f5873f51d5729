"""SchemaRegistryConfig: where a Kafka mapping's schemas are, and what is done with them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from millstream.contract.ports import Host
from millstream.kafka.access import read_pem, ssl_context
from millstream.kafka.secrets import AccessConfiguration, Secrets, read_secrets
from millstream.triggers.kafka_registry import FIELD, Registry

_AWS = {
    "SchemaRegistryURI": "schema_registry_uri",
    "EventRecordFormat": "event_record_format",
    "SchemaValidationConfigs": "schema_validation_configs",
    "AccessConfigs": "access_configs",
}
"""AWS's own names. Source: AWS, KafkaSchemaRegistryConfig."""

_TWINS = {
    "BASIC_AUTH": ("username", "password"),
    "CLIENT_CERTIFICATE_TLS_AUTH": ("certificate_file", "key_file", "key_password"),
    "SERVER_ROOT_CA_CERTIFICATE": ("ca_file",),
}
"""What a registry's secrets may be, and the options that say the same."""


class SchemaRegistryOptions(BaseModel):
    """A Confluent registry. The last six are ours: what AWS has in secrets, given at once."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    schema_registry_uri: str
    event_record_format: Literal["JSON", "SOURCE"] = "JSON"
    schema_validation_configs: list[Literal["KEY", "VALUE"]] = Field(min_length=1)
    access_configs: list[AccessConfiguration] | None = None
    username: str | None = None
    password: str | None = Field(default=None, repr=False)
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    key_password: str | None = Field(default=None, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError('{"schema_registry_uri": …, "schema_validation_configs": ["VALUE"]}')
        named = {_AWS.get(key, key): each for key, each in value.items()}
        if not set(named) <= set(cls.model_fields) or len(named) != len(value):
            raise ValueError(f"{', '.join(cls.model_fields)}, and nothing else")
        return named

    @field_validator("schema_registry_uri")
    @classmethod
    def _is_a_url(cls, uri: str) -> str:
        try:
            parts = urlsplit(uri)
            whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            whole = False
        if not whole or "@" in parts.netloc or parts.query or parts.fragment or not uri.isprintable():
            raise ValueError("a Confluent registry's URL, without user (https://registry.example.com)")
        return uri

    @field_validator("schema_validation_configs", mode="before")
    @classmethod
    def _attributes(cls, value: Any) -> Any:
        """The attributes, also where each is an object as AWS has it."""
        if not isinstance(value, (list, tuple)):
            return value
        return [
            one.get("Attribute", one.get("attribute")) if isinstance(one, dict) and len(one) == 1 else one
            for one in value
        ]

    @model_validator(mode="after")
    def _fits(self) -> SchemaRegistryOptions:
        types = [one.type for one in self.access_configs or ()]
        if len(set(types)) < len(types) or not set(types) <= set(_TWINS):
            raise ValueError(f"access_configs of {', '.join(_TWINS)}, each once")
        for kind in types:
            for twin in _TWINS[kind]:
                if getattr(self, twin) is not None:
                    raise ValueError(f"no {twin} beside {kind}")
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password together")
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file together")
        return self


def open_registry(options: SchemaRegistryOptions, host: Host) -> Registry:
    """A registry that was asked whether it lets us in; blocks.

    Raises:
        Refused: it does not, there is none, or a file or a secret cannot be read.
        SourceUnavailable: it, or Secrets Manager, does not answer now.
    """
    secrets = read_secrets(options.access_configs or (), host, f"{FIELD}.access_configs")
    certificate = read_pem(f"{FIELD}.certificate_file", options.certificate_file) or secrets.certificate
    context = ssl_context(
        read_pem(f"{FIELD}.ca_file", options.ca_file) or secrets.ca,
        certificate,
        read_pem(f"{FIELD}.key_file", options.key_file) or secrets.key,
        options.key_password or secrets.key_password,
        FIELD,
        FIELD,
    )
    registry = Registry(options.schema_registry_uri, _login(options, secrets), context)
    try:
        registry.check()
    except BaseException:
        registry.close()
        raise
    return registry


def _login(options: SchemaRegistryOptions, secrets: Secrets) -> Mapping[str, str]:
    username, password = options.username or secrets.username, options.password or secrets.password
    if username is None or password is None:
        return {}
    return {"Authorization": f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"}
