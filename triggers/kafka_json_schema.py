"""Checks JSON against JSON Schema."""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin

import msgspec
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import Draft7Validator, validator_for
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT7

from millstream.triggers.kafka_formats import unfit
from millstream.triggers.kafka_registry import RegisteredSchema


class JsonSchema:
    """JSON, which stays as it is. Nothing is fetched: what is referred to comes from the registry."""

    def __init__(self, schema: RegisteredSchema) -> None:
        with unfit(SchemaError):
            root = msgspec.json.decode(schema.text)
            base = str(root.get("$id", "")) if isinstance(root, dict) else ""
            resources: Registry[Any] = Registry()
            for name, text in schema.references.items():
                resource = Resource.from_contents(msgspec.json.decode(text), default_specification=DRAFT7)
                resources = resources.with_resources([(name, resource), (urljoin(base, name), resource)])
            kind = validator_for(root, default=Draft7Validator)
            kind.check_schema(root)
            self._validator: Validator = kind(root, registry=resources)

    def json(self, data: bytes) -> bytes:
        with unfit(ValidationError, Unresolvable):
            self._validator.validate(msgspec.json.decode(data))
        return data
