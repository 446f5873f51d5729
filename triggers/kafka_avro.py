"""Reads Avro."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import msgspec
from fastavro import parse_schema, schemaless_reader
from fastavro._read_py import schemaless_reader as recursive_reader

from millstream.contract import outside_json
from millstream.triggers.kafka_decimals import DECIMAL
from millstream.triggers.kafka_formats import Unfit, unfit
from millstream.triggers.kafka_registry import RegisteredSchema


class Avro:
    """Avro's binary encoding. Unions are not told apart, `bytes` are base64, decimals are text.

    Other logical types are the numbers and texts that they stand for.
    """

    def __init__(self, schema: RegisteredSchema) -> None:
        with unfit():
            texts = [*schema.references.values(), schema.text]
            parts = [_Walk().plain(_avro(text)) for text in texts]
            walk = _Walk()
            # As a record's only field anything may refer to what was defined before.
            fields = [{"name": f"f{number}", "type": part} for number, part in enumerate(parts)]
            walk.check({"type": "record", "name": "All", "fields": fields})
            named: dict[str, Any] = {}
            for part in parts[:-1]:
                parse_schema(part, named_schemas=named)
            whole = {
                "type": "record",
                "name": "MillstreamWhole",
                "fields": [{"name": "it", "type": parts[-1]}],
            }
            self._schema = parse_schema(whole, named_schemas=named)
        # Data of a schema that contains itself may be nested as deep as it is long. fastavro's compiled
        # reader then overruns the stack of its thread, and ends the process; the other one raises.
        self._read = recursive_reader if walk.recursive else schemaless_reader

    def json(self, data: bytes) -> bytes:
        with unfit():
            source = io.BytesIO(data)
            read: Any = self._read(source, self._schema, None)
            if source.tell() != len(data):
                raise Unfit("longer than its schema")
            return msgspec.json.encode(read["it"])


def _avro(text: str) -> Any:
    """A schema's JSON; the name of a primitive type may stand there without quotes."""
    try:
        return outside_json.read(text)
    except outside_json.NotJson:
        return text.strip()


class _Walk:
    """Looks through an Avro schema."""

    def __init__(self) -> None:
        self.recursive = False
        self._open: list[str] = []  # names of the types that are being defined
        self._empty: dict[str, bool] = {}  # by name: true if it takes no bytes

    def plain(self, schema: Any) -> Any:
        """The same without logical types, decimals excepted."""
        match schema:
            case list():
                return [self.plain(one) for one in schema]
            case dict():
                kept = {key: value for key, value in schema.items() if key != "logicalType"}
                if schema.get("logicalType") == "decimal":
                    kept["logicalType"] = DECIMAL
                for key in ("type", "items", "values"):
                    if key in kept:
                        kept[key] = self.plain(kept[key])
                if isinstance(kept.get("fields"), list):
                    kept["fields"] = [self.plain(one) for one in kept["fields"]]
                return kept
            case _:
                return schema

    def check(self, schema: Any, space: str = "") -> bool:
        """True if what it describes takes no bytes; notes whether it contains itself.

        Raises:
            Unfit: an array of what takes no bytes, of which a few bytes of data make any number.
        """
        match schema:
            case str():
                return self._named(schema, space)
            case list():
                for one in schema:
                    self.check(one, space)
                return False
            case {"type": "record" | "error"}:
                return self._record(schema, space)
            case {"type": "array", "items": items}:
                if self.check(items, space):
                    raise Unfit("an array of nothing")
                return False
            case {"type": "map", "values": values}:
                self.check(values, space)
                return False
            case {"type": "fixed" | "enum" as kind}:
                empty = kind == "fixed" and schema.get("size") == 0
                self._empty[_full(schema, space)[0]] = empty
                return bool(empty)
            case {"type": inner}:
                return self.check(inner, space)
            case _:
                raise Unfit("no schema")

    def _named(self, name: str, space: str) -> bool:
        if name == "null":
            return True
        full = name if "." in name or not space else f"{space}.{name}"
        for known in (full, name):
            if known in self._open:
                self.recursive = True
                return False
            if known in self._empty:
                return bool(self._empty[known])
        return False

    def _record(self, record: dict[str, Any], space: str) -> bool:
        name, space = _full(record, space)
        self._open.append(name)
        empty = [self.check(one["type"], space) for one in record["fields"]]
        self._open.pop()
        self._empty[name] = all(empty)
        return all(empty)


def _full(schema: Mapping[str, Any], space: str) -> tuple[str, str]:
    """A type's full name and its namespace."""
    name = str(schema["name"])
    if "." in name:
        return name, name.rpartition(".")[0]
    space = str(schema.get("namespace", space))
    return (f"{space}.{name}" if space else name), space
