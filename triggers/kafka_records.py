"""Makes records from Kafka messages: the event's bytes as the function sees them, encoded once.

A record's position is its offset, its item id `TOPIC-PARTITION:OFFSET`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import msgspec

from millstream.contract.records import Position, Reason, Record

TIMESTAMP_TYPES = {0: "CREATE_TIME", 1: "LOG_APPEND_TIME"}
"""By their number in the protocol."""

encode_event = msgspec.json.Encoder().encode

_position = cast(Callable[[int], Position], str)  # to call the type takes longer than to make the text


class SchemaMetadata(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """Which schema a key or value was written with."""

    data_format: str  # AVRO, JSON, PROTOBUF
    schema_id: str


class KafkaEvent(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """One record of the event, its keys in the order of the wire; `bytes` become base64.

    Source: AWS, "Using Lambda with self-managed Apache Kafka", example event. A record without a key
    has no `key`; a tombstone's `value` is null.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int  # ms
    timestamp_type: str
    key: bytes | msgspec.UnsetType = msgspec.UNSET
    value: bytes | msgspec.UnsetType | None = msgspec.UNSET
    headers: list[dict[str, list[int]]] | msgspec.UnsetType = msgspec.UNSET
    key_schema_metadata: SchemaMetadata | msgspec.UnsetType = msgspec.UNSET  # with a schema registry
    value_schema_metadata: SchemaMetadata | msgspec.UnsetType = msgspec.UNSET


class RecordMaker:
    """Makes the records of one topic."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self._names: dict[int, str] = {}

    def name(self, partition: int) -> str:
        """`TOPIC-PARTITION`, as events and batchItemFailures have it."""
        name = self._names.get(partition)
        if name is None:
            name = self._names[partition] = f"{self.topic}-{partition}"
        return name

    def number(self, name: str) -> int:
        """The partition of a name."""
        return int(name.rpartition("-")[2])

    def record(
        self,
        partition: int,
        offset: int,
        timestamp_type: str,
        timestamp_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]] | None,
        received_at: float,
    ) -> Record:
        """One record of the batch that arrived at `received_at` (Unix seconds).

        A producer may write no timestamp, which Kafka has as -1.
        """
        name = self._names.get(partition) or self.name(partition)
        position = _position(offset)
        event = KafkaEvent(
            self.topic,
            partition,
            offset,
            timestamp_ms,
            timestamp_type,
            msgspec.UNSET if key is None else key,
            value,
            signed(headers) if headers else [],
        )
        return Record(
            partition=name,
            position=position,
            item_id=f"{name}:{position}",
            event=encode_event(event),
            arrived_at=timestamp_ms / 1000
            if timestamp_ms >= 0
            else received_at,  # none: its age is not known
            received_at=received_at,
            ordering_key=name,
        )

    def unreadable(
        self, partition: int, offset: int, received_at: float, value: bytes | None = None
    ) -> Record:
        """What is given up in place of a record that the client cannot read; `value`: what it has of it."""
        record = self.record(partition, offset, TIMESTAMP_TYPES[0], -1, None, value, None, received_at)
        return msgspec.structs.replace(record, refused=Reason.DESERIALIZATION_ERROR)


class _Key(msgspec.Struct):
    key: bytes | None = None


def key_of(record: Record) -> bytes | None:
    """The key of a record, read from its event."""
    return msgspec.json.decode(record.event, type=_Key).key  # of our own making


def signed(headers: Sequence[tuple[str, bytes | None]]) -> list[dict[str, list[int]]]:
    """Headers as in events: in order, doubles included, bytes from -128 to 127; a null value is empty."""
    return [{name: list(memoryview(value or b"").cast("b"))} for name, value in headers]


def item_id(identifier: object) -> str | None:
    """The id of the record that an `itemIdentifier` names. None: it is of a wrong form.

    Source: AWS, "Configuring error handling controls for Kafka event sources": `{"partition":
    "TOPIC-PARTITION", "offset": N}`; an earlier version of the page has `topic-partition` as the key.
    """
    if not isinstance(identifier, dict):
        return None
    partition = identifier.get("partition", identifier.get("topic-partition"))
    offset = identifier.get("offset")
    if not isinstance(partition, str) or type(offset) is not int:
        return None
    return f"{partition}:{offset}"
