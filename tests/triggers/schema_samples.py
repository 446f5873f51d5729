"""Schemas and data of them, for the tests of schema registries."""

from __future__ import annotations

import base64
import io
from typing import Any

from fastavro import parse_schema, schemaless_writer
from google.protobuf import timestamp_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

ORDER: dict[str, Any] = {
    "type": "record",
    "name": "Order",
    "namespace": "shop",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "note", "type": ["null", "string"], "default": None},
    ],
}

JSON_ORDER = {
    "type": "object",
    "properties": {"id": {"type": "integer"}, "note": {"type": "string"}},
    "required": ["id"],
}


def framed(number: int, data: bytes) -> bytes:
    """Data in the wire format: a zero, the schema's id, and the data."""
    return b"\0" + number.to_bytes(4) + data


def avro(schema: Any, value: Any) -> bytes:
    out = io.BytesIO()
    schemaless_writer(out, parse_schema(schema), value)
    return out.getvalue()


def descriptor(file: FileDescriptorProto) -> str:
    """As a registry gives it out."""
    return base64.b64encode(file.SerializeToString()).decode()


def field(name: str, number: int, kind: int, type_name: str | None = None) -> Any:
    label = FieldDescriptorProto.LABEL_OPTIONAL
    return FieldDescriptorProto(name=name, number=number, type=kind, label=label, type_name=type_name)


def proto(name: str, *messages: Any, imports: tuple[str, ...] = (), package: str = "shop") -> Any:
    return FileDescriptorProto(
        name=name, package=package, syntax="proto3", message_type=messages, dependency=imports
    )


INT64, STRING, MESSAGE = (
    FieldDescriptorProto.TYPE_INT64,
    FieldDescriptorProto.TYPE_STRING,
    FieldDescriptorProto.TYPE_MESSAGE,
)

PROTO_ORDER = DescriptorProto(
    name="Order",
    field=[
        field("order_id", 1, INT64),
        field("note", 2, STRING),
        field("placed_at", 3, MESSAGE, ".google.protobuf.Timestamp"),
    ],
    nested_type=[DescriptorProto(name="Line", field=[field("article", 1, STRING)])],
)
PROTO_OTHER = DescriptorProto(name="Other", field=[field("text", 1, STRING)])
TIMESTAMP = timestamp_pb2.DESCRIPTOR.name
