"""Checks JSON against JSON Schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import Draft7Validator, extend, validator_for
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

from millstream.contract import outside_json
from millstream.triggers.kafka_formats import unfit
from millstream.triggers.kafka_registry import RegisteredSchema


class JsonSchema:
    """JSON, which stays as it is. Nothing is fetched: what is referred to comes from the registry."""

    def __init__(self, schema: RegisteredSchema) -> None:
        with unfit():
            root = outside_json.read(schema.text)
            base = str(root.get("$id", "")) if isinstance(root, dict) else ""
            resources: Registry[Any] = Registry()
            for name, text in schema.references.items():
                resource = Resource.from_contents(outside_json.read(text), default_specification=DRAFT7)
                resources = resources.with_resources([(name, resource), (urljoin(base, name), resource)])
            kind = validator_for(root, default=Draft7Validator)
            kind.check_schema(root)
            quick: Any = extend(kind, {"uniqueItems": _unique})
            self._validator: Validator = quick(root, registry=resources)

    def json(self, data: bytes) -> bytes:
        with unfit():
            self._validator.validate(outside_json.read(data))
        return data


def _unique(validator: Any, wanted: bool, items: Any, schema: Any) -> Iterator[ValidationError]:
    """Check `uniqueItems` in a time that grows with the array; the library's own compares each with each."""
    if wanted and validator.is_type(items, "array"):
        seen = set()
        for item in items:
            known = _comparable(item)
            if known in seen:
                yield ValidationError("has non-unique elements")
                return
            seen.add(known)


def _comparable(value: Any) -> object:
    """The same for equal values alone: 1 is 1.0, and neither is true."""
    match value:
        case bool() | None:
            return (type(value), value)
        case dict():
            return frozenset((key, _comparable(one)) for key, one in value.items())
        case list():
            return (list, *map(_comparable, value))
        case _:
            return value
