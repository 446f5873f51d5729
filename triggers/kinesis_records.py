"""Makes records from Kinesis records: the event's bytes as the function sees them, encoded once.

A record's position and item id are its sequence number. One of several that a producer packed into a
Kinesis record has the position `SEQUENCE:n`, and as item id the sequence number that they share: a
failed one is retried with those before it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import md5

import msgspec

from millstream.aws.arn import parse_arn
from millstream.contract.records import Position, Reason, Record
from millstream.contract.seldom import Seldom
from millstream.triggers.kinesis_aggregates import UserRecord, unpack_base64
from millstream.triggers.kinesis_wire import KinesisRecord

logger = logging.getLogger(__name__)

HASH_KEY_DIGITS = 39
"""Of the largest hash key, 2^128 - 1. Source: AWS, PutRecord, ExplicitHashKey."""

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class HashRange:
    """The hash keys that a shard takes, both ends included."""

    first: int
    last: int

    def holds(self, record: UserRecord) -> bool:
        """True if a packed record belongs to the shard, by its explicit hash key or its partition key."""
        key = record.hash_key
        if key is None:
            digest = md5(record.partition_key.encode(errors="surrogatepass"), usedforsecurity=False).digest()
            return self.first <= int.from_bytes(digest, "big") <= self.last
        if len(key) > HASH_KEY_DIGITS or not key.isdecimal():
            return True  # of no shard at all; better here than nowhere
        return self.first <= int(key) <= self.last


class KinesisData(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """The `kinesis` object of an event's record. `sub_sequence_number` is ours."""

    kinesis_schema_version: str
    partition_key: str | msgspec.Raw
    sequence_number: str
    data: msgspec.Raw
    approximate_arrival_timestamp: float
    sub_sequence_number: int | msgspec.UnsetType = msgspec.UNSET


class KinesisEvent(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """One record of the event, its keys in the order of the wire.

    Source: AWS, "Using Lambda to process records from Amazon Kinesis Data Streams", example event;
    tests/triggers/test_kinesis_records.py.
    """

    kinesis: KinesisData
    event_source: str
    event_version: str
    event_id: str = msgspec.field(name="eventID")
    event_name: str
    invoke_identity_arn: str
    aws_region: str
    event_source_arn: str = msgspec.field(name="eventSourceARN")


@dataclass(frozen=True, slots=True)
class RecordMaker:
    """Makes the records of one shard."""

    shard: str
    source_arn: str  # of the stream, or of the consumer
    region: str
    role_arn: str
    unpacks: bool = False  # records that a producer packed into one are to be taken apart
    hash_range: HashRange | None = None  # packed records outside of it are left out. None: all are taken
    seldom: Seldom = field(default_factory=Seldom)

    @classmethod
    def of(
        cls,
        shard: str,
        source_arn: str,
        unpacks: bool,
        hash_range: HashRange | None,
        seldom: Seldom | None = None,
    ) -> RecordMaker:
        """A maker for a shard of the stream or consumer of that ARN."""
        arn = parse_arn(source_arn)
        partition, region, account = (arn.partition, arn.region, arn.account) if arn else ("aws", "", "")
        role = f"arn:{partition}:iam::{account}:role/millstream"
        return cls(shard, source_arn, region, role, unpacks, hash_range, seldom or Seldom())

    def records(self, found: Sequence[KinesisRecord], received_at: float) -> list[Record]:
        """The records of a page, in its order. One that makes no sense is refused, and the others are not."""
        try:
            return [self._plain(one, received_at) for one in found]
        except Exception:  # noqa: BLE001  of one of them, which is found below
            return [self._surely(one, received_at) for one in found]

    def taken_apart(self, one: KinesisRecord) -> Sequence[UserRecord] | None:
        """What a producer packed into a record. None: it is a plain one, or is not to be taken apart."""
        if not self.unpacks or one.__class__ is not KinesisRecord:
            return None
        return unpack_base64(bytes(one.data))

    def packed(self, one: KinesisRecord, sub: int, user: UserRecord, received_at: float) -> Record | None:
        """The record of what was packed as number `sub` into one. None: it is of another shard."""
        try:
            if self.hash_range is not None and not self.hash_range.holds(user):
                return None
            data, at = msgspec.Raw(_encode(user.data)), one.approximate_arrival_timestamp
            return self._record(user.partition_key, one.sequence_number, data, at, received_at, sub)
        except Exception as error:  # noqa: BLE001  of bytes from outside
            return self._refused(one, received_at, error, sub)

    def _surely(self, one: KinesisRecord, received_at: float) -> Record:
        try:
            return self._plain(one, received_at)
        except Exception as error:  # noqa: BLE001  of bytes from outside
            return self._refused(one, received_at, error)

    def _plain(self, one: KinesisRecord, received_at: float) -> Record:
        if one.__class__ is not KinesisRecord:
            return self._refused(one, received_at)
        at = one.approximate_arrival_timestamp
        return self._record(one.partition_key, one.sequence_number, one.data, at, received_at)

    def _refused(
        self,
        one: KinesisRecord,
        received_at: float,
        error: Exception | None = None,
        sub: int | msgspec.UnsetType = msgspec.UNSET,
    ) -> Record:
        reason = Reason.DESERIALIZATION_ERROR
        if self.seldom.due(reason.value):
            about = {"stream": self.source_arn, "shard": self.shard, "position": one.sequence_number}
            why = "fields of a wrong form" if error is None else type(error).__name__
            logger.warning("record that cannot be read is given up", extra={**about, "why": why})
        at = one.approximate_arrival_timestamp
        key = one.partition_key if error is None else ""
        made = self._record(key, one.sequence_number, one.data, at, received_at, sub)
        return msgspec.structs.replace(made, refused=reason)

    def _record(
        self,
        key: str,
        sequence: str,
        data: msgspec.Raw,
        arrived_at: float,
        received_at: float,
        sub: int | msgspec.UnsetType = msgspec.UNSET,
    ) -> Record:
        if arrived_at != arrived_at:  # NaN: the service did not say
            arrived_at = received_at
        event = KinesisEvent(
            KinesisData("1.0", key, sequence, data, arrived_at, sub),
            "aws:kinesis",
            "1.0",
            f"{self.shard}:{sequence}",
            "aws:kinesis:record",
            self.role_arn,
            self.region,
            self.source_arn,
        )
        try:
            text = _encode(event)
        except UnicodeEncodeError:  # half a surrogate pair: JSON can hold it, escaped
            escaped = msgspec.Raw(json.dumps(key).encode())
            kinesis = msgspec.structs.replace(event.kinesis, partition_key=escaped)
            text = _encode(msgspec.structs.replace(event, kinesis=kinesis))
            key = key.encode(errors="backslashreplace").decode()
        return Record(
            partition=self.shard,
            position=Position(sequence if sub is msgspec.UNSET else f"{sequence}:{sub}"),
            item_id=sequence,
            event=text,
            arrived_at=arrived_at,
            received_at=received_at,
            ordering_key=key,
        )
