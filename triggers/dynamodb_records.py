"""Makes records from DynamoDB stream records: the event's bytes as the function sees them, encoded once.

A record's position and item id are its sequence number, its ordering key is the key of its item.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from millstream.contract.records import Position, Reason, Record
from millstream.contract.seldom import Seldom
from millstream.triggers.dynamodb_wire import created_at, sequence_of

logger = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class StreamRecord(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    """The `dynamodb` object of an event's record. Numbers are strings, binary values base64."""

    approximate_creation_date_time: int  # Unix seconds
    keys: dict[str, Any]
    new_image: dict[str, Any] | msgspec.UnsetType
    old_image: dict[str, Any] | msgspec.UnsetType
    sequence_number: str
    size_bytes: int | msgspec.UnsetType
    stream_view_type: str | msgspec.UnsetType


class Identity(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """Who removed an item, where it was not a user."""

    type: str | None
    principal_id: str | None


class DynamoDbEvent(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """One record of the event, its keys in the order of the wire.

    Source: AWS, "Process DynamoDB records with Lambda", example event, and "DynamoDB Streams and Time
    to Live"; tests/triggers/test_dynamodb_records.py.
    """

    event_id: str | msgspec.UnsetType = msgspec.field(name="eventID")
    event_name: str
    event_version: str
    event_source: str
    aws_region: str | msgspec.UnsetType
    dynamodb: StreamRecord
    event_source_arn: str = msgspec.field(name="eventSourceARN")
    user_identity: Identity | msgspec.UnsetType


@dataclass(frozen=True, slots=True)
class RecordMaker:
    """Makes the records of one shard."""

    shard: str
    stream_arn: str
    seldom: Seldom = field(default_factory=Seldom)

    def records(self, found: Sequence[dict[str, Any]], received_at: float) -> list[Record]:
        """The records of a page, in its order. One that makes no sense is refused, and the others are not."""
        return [self._surely(one, received_at) for one in found]

    def _surely(self, one: dict[str, Any], received_at: float) -> Record:
        try:
            return self._record(one, received_at)
        except Exception as error:  # noqa: BLE001  of bytes from outside
            return self._refused(one, received_at, error)

    def _record(self, one: dict[str, Any], received_at: float) -> Record:
        change = one["dynamodb"]
        at = created_at(one)
        arrived_at = received_at if at is None else at
        keys = change["Keys"]
        event = DynamoDbEvent(
            one.get("eventID", msgspec.UNSET),
            one["eventName"],
            one.get("eventVersion", "1.1"),
            one.get("eventSource", "aws:dynamodb"),
            one.get("awsRegion", msgspec.UNSET),
            StreamRecord(
                int(arrived_at),
                keys,
                change.get("NewImage", msgspec.UNSET),
                change.get("OldImage", msgspec.UNSET),
                change["SequenceNumber"],
                change.get("SizeBytes", msgspec.UNSET),
                change.get("StreamViewType", msgspec.UNSET),
            ),
            self.stream_arn,
            _identity(one),
        )
        return self._made(one, _bytes(event), arrived_at, received_at, _ordering_key(keys))

    def _refused(self, one: dict[str, Any], received_at: float, error: Exception) -> Record:
        reason = Reason.DESERIALIZATION_ERROR
        if self.seldom.due(reason.value):
            about = {"stream": self.stream_arn, "shard": self.shard, "position": sequence_of(one)}
            extra = {**about, "why": type(error).__name__}
            logger.warning("record that cannot be read is given up", extra=extra)
        try:
            event = json.dumps({**one, "eventSourceARN": self.stream_arn}, separators=(",", ":")).encode()
        except (ValueError, RecursionError):
            event = json.dumps({"eventSourceARN": self.stream_arn}).encode()
        made = self._made(one, event, received_at, received_at, "")
        return msgspec.structs.replace(made, refused=reason)

    def _made(
        self, one: dict[str, Any], event: bytes, arrived_at: float, received_at: float, ordering_key: str
    ) -> Record:
        sequence = sequence_of(one)
        return Record(
            partition=self.shard,
            position=Position(sequence),
            item_id=sequence,
            event=event,
            arrived_at=arrived_at,
            received_at=received_at,
            ordering_key=ordering_key,
        )


def _identity(one: dict[str, Any]) -> Identity | msgspec.UnsetType:
    identity = one.get("userIdentity")
    # The service spells the names in lower case or with a capital, by the age of its model.
    if not isinstance(identity, dict):
        return msgspec.UNSET
    named = {name.lower(): value for name, value in identity.items()}
    return Identity(named.get("type"), named.get("principalid"))


def _ordering_key(keys: dict[str, Any]) -> str:
    try:
        return _encode_sorted(keys).decode()
    except UnicodeEncodeError:
        return json.dumps(keys, sort_keys=True)


def _bytes(event: DynamoDbEvent) -> bytes:
    try:
        return _encode(event)
    except UnicodeEncodeError:  # half a surrogate pair: JSON can hold it, escaped
        return json.dumps(msgspec.to_builtins(event), separators=(",", ":")).encode()
