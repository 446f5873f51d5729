"""DynamoDB Streams in memory, as a test arranges it: what no emulator has.

Shards split, are trimmed and vanish; iterators expire. tests/brokers/dynamodb_fake.py serves it over HTTP.
"""

from __future__ import annotations

import base64
import itertools
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

ITERATOR_S = 15 * 60.0
MAX_RECORDS = 1000
MAX_PAGE_BYTES = 1024 * 1024
MAX_SHARDS = 100
TTL = {"Type": "Service", "PrincipalId": "dynamodb.amazonaws.com"}

Wire = dict[str, Any]


class Fault(Exception):
    """An answer that is an error."""

    def __init__(self, code: str, status: int = 400, drop: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.status = status
        self.drop = drop  # the connection is closed, without an answer


def wire(value: Any) -> Any:
    """An attribute value as the service writes it: bytes are base64."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {name: wire(each) for name, each in value.items()}
    return [wire(each) for each in value] if isinstance(value, list) else value


@dataclass
class Shard:
    """One shard. Places in it count from its first record ever."""

    id: str
    parent: str | None = None
    records: list[Wire] = field(default_factory=list)
    trimmed: int = 0  # records that are gone from the front
    ending: str | None = None
    empty_pages: int = 0  # answers without records that come first

    @property
    def end(self) -> int:
        return self.trimmed + len(self.records)

    def place_of(self, sequence: str) -> int:
        """The place of a record."""
        for place, record in enumerate(self.records, self.trimmed):
            if record["dynamodb"]["SequenceNumber"] == sequence:
                return place
        raise Fault("TrimmedDataAccessException")

    def described(self) -> Wire:
        numbers = [record["dynamodb"]["SequenceNumber"] for record in self.records]
        span = {"StartingSequenceNumber": numbers[0] if numbers else "1"}
        if self.ending is not None:
            span["EndingSequenceNumber"] = self.ending
        parent = {"ParentShardId": self.parent} if self.parent is not None else {}
        return {"ShardId": self.id, "SequenceNumberRange": span, **parent}


class FakeStream:
    """A table's stream, with one shard."""

    def __init__(self, service: Streams, table: str, view: str) -> None:
        self._service = service
        self.table = table
        self.view = view
        self.label = f"2026-01-01T00:00:00.{next(service.numbers):03d}"
        self.arn = f"arn:aws:dynamodb:us-east-1:000000000000:table/{table}/stream/{self.label}"
        self.status = "ENABLED"
        self.shards: dict[str, Shard] = {}
        self.add_shard()

    def add_shard(self, parent: str | None = None) -> str:
        """A new, open shard's id."""
        with self._service.lock:
            number = next(self._service.numbers)
            shard = Shard(f"shardId-{number:020d}-{number % 2**32:08x}", parent)
            self.shards[shard.id] = shard
            return shard.id

    def open_shards(self) -> list[str]:
        return [shard.id for shard in self.shards.values() if shard.ending is None]

    def put(
        self,
        key: Mapping[str, Any],
        new: Mapping[str, Any] | None = None,
        old: Mapping[str, Any] | None = None,
        *,
        shard: str | None = None,
        created_at: float | None = None,
        identity: Wire | None = None,
        change: Wire | None = None,
        event: Wire | None = None,
    ) -> str:
        """Record a change of an item (neither image: an insert of the key alone); its sequence number.

        Goes to the shard, or to the open one of the key. `change` and `event` are put in place of parts of
        the record; what is None is left out.
        """
        with self._service.lock:
            image = key if new is None and old is None else new
            name = "REMOVE" if image is None else "INSERT" if old is None else "MODIFY"
            number = self._service.next_sequence()
            told: Wire = {
                "ApproximateCreationDateTime": int(self._service.now() if created_at is None else created_at),
                "Keys": wire(key),
                "SequenceNumber": number,
                "SizeBytes": len(json.dumps(wire([key, image, old]))),
                "StreamViewType": self.view,
            }
            if image is not None and self.view in ("NEW_IMAGE", "NEW_AND_OLD_IMAGES"):
                told["NewImage"] = wire(image)
            if old is not None and self.view in ("OLD_IMAGE", "NEW_AND_OLD_IMAGES"):
                told["OldImage"] = wire(old)
            open_ = self.open_shards()
            chosen = shard or open_[crc32(json.dumps(wire(key), sort_keys=True).encode()) % len(open_)]
            made: Wire = {
                "eventID": f"{next(self._service.numbers):032x}",
                "eventName": name,
                "eventVersion": "1.1",
                "eventSource": "aws:dynamodb",
                "awsRegion": "us-east-1",
                "dynamodb": _but(told, change),
            }
            if identity is not None:
                made["userIdentity"] = identity
            self.shards[chosen].records.append(_but(made, event))
            return number

    def expire_item(self, key: Mapping[str, Any], old: Mapping[str, Any], **more: Any) -> str:
        """Record that Time to Live removed an item; its sequence number."""
        return self.put(key, None, old, identity=TTL, **more)

    def close(self, shard: str) -> None:
        """Let a shard take no more."""
        with self._service.lock:
            self.shards[shard].ending = self._service.next_sequence()

    def split(self, shard: str, children: int = 2) -> list[str]:
        """Close a shard and open children of it."""
        self.close(shard)
        return [self.add_shard(shard) for _ in range(children)]

    def trim(self, shard: str, count: int) -> None:
        """Drop the oldest records of a shard."""
        with self._service.lock:
            held = self.shards[shard]
            held.trimmed += len(held.records[:count])
            del held.records[:count]

    def vanish(self, shard: str) -> None:
        """Drop a whole shard from the stream."""
        with self._service.lock:
            del self.shards[shard]

    def disable(self) -> None:
        """Close each shard; what they hold may still be read."""
        for shard in self.open_shards():
            self.close(shard)
        self.status = "DISABLED"

    def delete(self) -> None:
        """Drop the stream, and the table that has it."""
        with self._service.lock:
            del self._service.streams[self.arn]
            self._service.tables.pop(self.table, None)


@dataclass(frozen=True)
class _Iterator:
    stream: FakeStream
    shard: str
    place: int
    made_at: float


class Streams:
    """The service, less its protocol."""

    def __init__(self, page_of_shards: int = MAX_SHARDS) -> None:
        self.lock = threading.RLock()
        self.numbers = itertools.count(1)
        self.streams: dict[str, FakeStream] = {}
        self.tables: dict[str, str | None] = {}  # their latest stream's ARN
        self.ahead_s = 0.0  # of everybody else's clock
        self.page_of_shards = page_of_shards
        self._sequence = 10**20 - 3  # the numbers soon have one digit more: text does not sort as they do
        self._iterators: dict[str, _Iterator] = {}

    def now(self) -> float:
        return time.time() + self.ahead_s

    def next_sequence(self) -> str:
        self._sequence += 1
        return str(self._sequence)

    def stream(self, table: str, view: str = "NEW_AND_OLD_IMAGES") -> FakeStream:
        """A stream of a table, which is made if it is not there; the latest of it from now on."""
        with self.lock:
            made = FakeStream(self, table, view)
            self.streams[made.arn] = made
            self.tables[table] = made.arn
            return made

    def table(self, name: str) -> None:
        """A table without a stream."""
        self.tables[name] = None

    def expire_iterators(self) -> None:
        """Let every iterator that is out there expire."""
        with self.lock:
            self._iterators.clear()

    def perform(self, operation: str, body: Wire) -> Wire:
        """What the service answers. Raises Fault."""
        with self.lock:
            match operation:
                case "DescribeTable":
                    return self._describe_table(body)
                case "ListStreams":
                    return self._list_streams(body)
                case "DescribeStream":
                    return self._describe_stream(body)
                case "GetShardIterator":
                    return self._get_shard_iterator(body)
                case "GetRecords":
                    return self._get_records(body)
            raise Fault("UnknownOperationException")

    def _describe_table(self, body: Wire) -> Wire:
        name = body["TableName"].rpartition("/")[2]
        if name not in self.tables:
            raise Fault("ResourceNotFoundException")
        latest = self.tables[name]
        return {"Table": {"TableName": name, **({"LatestStreamArn": latest} if latest else {})}}

    def _list_streams(self, body: Wire) -> Wire:
        of_table = body.get("TableName")
        found = [s for s in self.streams.values() if of_table in (None, s.table)]
        return {
            "Streams": [{"StreamArn": s.arn, "TableName": s.table, "StreamLabel": s.label} for s in found]
        }

    def _describe_stream(self, body: Wire) -> Wire:
        stream = self._stream(body)
        limit = min(body.get("Limit", MAX_SHARDS), self.page_of_shards)
        shards = list(stream.shards.values())
        ids = [shard.id for shard in shards]
        first = ids.index(body["ExclusiveStartShardId"]) + 1 if "ExclusiveStartShardId" in body else 0
        page = shards[first : first + limit]
        description = {
            "StreamArn": stream.arn,
            "StreamLabel": stream.label,
            "StreamStatus": stream.status,
            "StreamViewType": stream.view,
            "CreationRequestDateTime": 1767225600.0,
            "TableName": stream.table,
            "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
            "Shards": [shard.described() for shard in page],
        }
        if first + limit < len(shards):
            description["LastEvaluatedShardId"] = page[-1].id
        return {"StreamDescription": description}

    def _get_shard_iterator(self, body: Wire) -> Wire:
        stream = self._stream(body)
        shard = self._shard(stream, body["ShardId"])
        match body["ShardIteratorType"]:
            case "TRIM_HORIZON":
                place = shard.trimmed
            case "LATEST":
                place = shard.end
            case "AT_SEQUENCE_NUMBER":
                place = shard.place_of(body["SequenceNumber"])
            case "AFTER_SEQUENCE_NUMBER":
                place = shard.place_of(body["SequenceNumber"]) + 1
            case _:
                raise Fault("ValidationException")
        return {"ShardIterator": self._iterator(stream, shard.id, place)}

    def _get_records(self, body: Wire) -> Wire:
        iterator = self._iterators.get(body["ShardIterator"])
        if iterator is None or self.now() - iterator.made_at >= ITERATOR_S:
            raise Fault("ExpiredIteratorException")
        if iterator.stream.arn not in self.streams:
            raise Fault("ResourceNotFoundException")
        limit = body.get("Limit", MAX_RECORDS)
        if not 1 <= limit <= MAX_RECORDS:
            raise Fault("ValidationException")
        shard = self._shard(iterator.stream, iterator.shard)
        if iterator.place < shard.trimmed:
            raise Fault("TrimmedDataAccessException")
        if shard.empty_pages:
            shard.empty_pages -= 1
            limit = 0
        first = iterator.place - shard.trimmed
        page = _within(shard.records[first : first + limit])
        place = iterator.place + len(page)
        answer: Wire = {"Records": page}
        if shard.ending is None or place < shard.end or limit == 0:
            answer["NextShardIterator"] = self._iterator(iterator.stream, shard.id, place)
        return answer

    def _stream(self, body: Wire) -> FakeStream:
        if body["StreamArn"] not in self.streams:
            raise Fault("ResourceNotFoundException")
        return self.streams[body["StreamArn"]]

    def _shard(self, stream: FakeStream, shard: str) -> Shard:
        if shard not in stream.shards:
            raise Fault("ResourceNotFoundException")
        return stream.shards[shard]

    def _iterator(self, stream: FakeStream, shard: str, place: int) -> str:
        name = f"{stream.arn}|{next(self.numbers)}"
        self._iterators[name] = _Iterator(stream, shard, place, self.now())
        return name


def _but(parts: Wire, others: Wire | None) -> Wire:
    """Some parts replaced by others."""
    return {name: value for name, value in {**parts, **(others or {})}.items() if value is not None}


def _within(records: Sequence[Wire]) -> list[Wire]:
    """The first records, up to the size of a page."""
    sizes = itertools.accumulate(len(json.dumps(record)) for record in records)
    return [
        r for n, (r, size) in enumerate(zip(records, sizes, strict=True)) if not n or size <= MAX_PAGE_BYTES
    ]
