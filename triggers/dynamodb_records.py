"""Makes records from DynamoDB stream records: the event's bytes as the function sees them, encoded once.

A record's position and item id are its sequence number, its ordering key is the key of its item.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from millstream.contract.records import Position, Record

_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class StreamRecord(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    """The `dynamodb` object of an event's record. Numbers are strings, binary values base64."""

    approximate_creation_date_time: int  # Unix seconds
    keys: dict[str, Any]
    new_image: dict[str, Any] | msgspec.UnsetType
    old_image: dict[str, Any] | msgspec.UnsetType
    sequence_number: str
    size_bytes: int
    stream_view_type: str


class Identity(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """Who removed an item, where it was not a user."""

    type: str
    principal_id: str


class DynamoDbEvent(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """One record of the event, its keys in the order of the wire.

    Source: AWS, "Process DynamoDB records with Lambda", example event, and "DynamoDB Streams and Time
    to Live"; tests/triggers/test_dynamodb_records.py.
    """

    event_id: str = msgspec.field(name="eventID")
    event_name: str
    event_version: str
    event_source: str
    aws_region: str
    dynamodb: StreamRecord
    event_source_arn: str = msgspec.field(name="eventSourceARN")
    user_identity: Identity | msgspec.UnsetType


@dataclass(frozen=True, slots=True)
class RecordMaker:
    """Makes the records of one shard."""

    shard: str
    stream_arn: str

    def records(self, found: Sequence[dict[str, Any]], received_at: float) -> list[Record]:
        """The records of a page as boto3 gives it, in its order."""
        return [self._record(one, received_at) for one in found]

    def _record(self, one: dict[str, Any], received_at: float) -> Record:
        change = one["dynamodb"]
        sequence = change["SequenceNumber"]
        arrived_at = created_at(one)
        keys = change["Keys"]
        event = DynamoDbEvent(
            one["eventID"],
            one["eventName"],
            one["eventVersion"],
            one["eventSource"],
            one["awsRegion"],
            StreamRecord(
                int(arrived_at),
                keys,
                change.get("NewImage", msgspec.UNSET),
                change.get("OldImage", msgspec.UNSET),
                sequence,
                change["SizeBytes"],
                change["StreamViewType"],
            ),
            self.stream_arn,
            _identity(one),
        )
        return Record(
            partition=self.shard,
            position=Position(sequence),
            item_id=sequence,
            event=_bytes(event),
            arrived_at=arrived_at,
            received_at=received_at,
            ordering_key=_ordering_key(keys),
        )


def created_at(one: dict[str, Any]) -> float:
    """When the change of a record was made: Unix seconds."""
    at: float = one["dynamodb"]["ApproximateCreationDateTime"].timestamp()
    return at


def _identity(one: dict[str, Any]) -> Identity | msgspec.UnsetType:
    identity = one.get("userIdentity")
    return Identity(identity["Type"], identity["PrincipalId"]) if identity else msgspec.UNSET


def _ordering_key(keys: dict[str, Any]) -> str:
    try:
        return _encode_sorted(keys).decode()
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(keys), sort_keys=True)


def _bytes(event: DynamoDbEvent) -> bytes:
    try:
        return _encode(event)
    except UnicodeEncodeError:  # half a surrogate pair: JSON can hold it, escaped
        return json.dumps(msgspec.to_builtins(event), separators=(",", ":")).encode()
