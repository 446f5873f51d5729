"""Reads Protobuf."""

from __future__ import annotations

import base64
import binascii
import importlib

import msgspec
from google.protobuf import json_format, message
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from millstream.triggers.kafka_formats import NotSerialized, Unfit, unfit
from millstream.triggers.kafka_registry import RegisteredSchema

WELL_KNOWN = (
    *("any", "descriptor", "duration", "empty", "field_mask", "source_context"),
    *("struct", "timestamp", "wrappers", "type", "api"),
)
"""What every schema may import, each before those that import it."""


class Protobuf:
    """Protobuf's binary encoding, behind the path to its message; as JSON in Protobuf's own mapping.

    Source: Confluent, "Wire format"; Protocol Buffers, "ProtoJSON Format".
    """

    def __init__(self, schema: RegisteredSchema) -> None:
        self._pool = DescriptorPool()
        with unfit():
            for name in WELL_KNOWN:
                module = importlib.import_module(f"google.protobuf.{name}_pb2")
                self._pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
            for name, text in schema.references.items():
                if name.startswith("google/protobuf/"):
                    continue
                file = _descriptor(text)
                file.name = name
                self._pool.AddSerializedFile(file.SerializeToString())
            root = _descriptor(schema.text)
            root.name = root.name or "root.proto"
            self._pool.AddSerializedFile(root.SerializeToString())
            self._file = self._pool.FindFileByName(root.name)
            self._messages = [self._file.message_types_by_name[one.name] for one in root.message_type]

    def json(self, data: bytes) -> bytes:
        with unfit():
            path, rest = _path(data)
            read = GetMessageClass(self._message(path))()
            read.ParseFromString(rest)
            if not read.IsInitialized():
                raise Unfit("a required field is missing")
            return msgspec.json.encode(json_format.MessageToDict(read, descriptor_pool=self._pool))

    def _message(self, path: list[int]) -> Descriptor:
        """The message at a path: which one of the file, which one nested in it, and so on."""
        choices = self._messages
        found: Descriptor | None = None
        for index in path:
            if index < 0:
                raise Unfit("no such message")
            found = choices[index]
            choices = list(found.nested_types)
        if found is None:
            raise Unfit("no message")
        return found


def _descriptor(text: str) -> FileDescriptorProto:
    try:
        return FileDescriptorProto.FromString(base64.b64decode(text, validate=True))
    except (binascii.Error, message.DecodeError) as error:
        raise NotSerialized from error


def _path(data: bytes) -> tuple[list[int], bytes]:
    """The message's path, and what follows. A single 0 stands for the first message."""
    count, at = _number(data, 0)
    if count == 0:
        return [0], data[at:]
    path = []
    for _ in range(count):
        index, at = _number(data, at)
        path.append(index)
    return path, data[at:]


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A zigzag number, and where the next one begins."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
        if shift > 63:
            raise Unfit("no number")
