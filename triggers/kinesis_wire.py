"""Decodes the answers that carry Kinesis records: what botocore's own parser does ten times slower.

The parser is put in by botocore's component registry, so signing, retries and errors stay botocore's.
What the quick decoder refuses is read again, record by record: one that makes no sense spoils no other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import msgspec
from botocore.model import Shape
from botocore.parsers import (
    EventStreamJSONParser,
    JSONParser,
    ResponseParser,
    ResponseParserError,
    ResponseParserFactory,
)

from millstream.contract import outside_json

GET_RECORDS = "GetRecordsOutput"
EVENT = "SubscribeToShardEvent"
FOUND = "Found"
"""Key of a `Found` in the answer of GetRecords."""


class KinesisRecord(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    """One record as the service gives it."""

    partition_key: str
    sequence_number: str
    approximate_arrival_timestamp: float  # Unix seconds. NaN: the service did not say
    data: msgspec.Raw = msgspec.Raw(b'""')  # a JSON string in base64, as the function will see it

    def arrived_before(self, at: float) -> bool:
        """True if it is known to have arrived before `at`, in Unix seconds."""
        return self.approximate_arrival_timestamp < at  # False of NaN: better twice than not at all


class UnreadableRecord(KinesisRecord, frozen=True, gc=False, rename="pascal"):
    """One record of which but the sequence number is sure."""


class UnreadablePage(ResponseParserError):
    """An answer that is none, or has a record without a place."""


class Found(msgspec.Struct, frozen=True, rename="pascal"):
    """What GetRecords or one event of SubscribeToShard brought; None where the service said nothing."""

    records: list[KinesisRecord]  # an answer without it is none: it must not pass for the end of a shard
    next_shard_iterator: str | None = None
    continuation_sequence_number: str | None = None
    millis_behind_latest: float | None = None
    child_shards: list[Any] | None = None

    @property
    def lag_s(self) -> float | None:
        """How far behind the newest record it ends."""
        return None if self.millis_behind_latest is None else self.millis_behind_latest / 1000


_decoder = msgspec.json.Decoder(Found)


class KinesisParsers(ResponseParserFactory):
    """Makes the parsers of a client of Kinesis."""

    def create_parser(self, protocol_name: str) -> ResponseParser:
        """Ours for the protocol that Kinesis has, else botocore's."""
        return _Parser() if protocol_name == "json" else super().create_parser(protocol_name)


class _EventParser(EventStreamJSONParser):
    def parse(self, response: Mapping[str, Any], shape: Shape) -> Any:
        if response["status_code"] == 200 and response["headers"].get(":event-type") == EVENT:
            return {EVENT: _found(response["body"])}
        return super().parse(response, shape)


class _Parser(JSONParser):
    EVENT_STREAM_PARSER_CLS = _EventParser

    def parse(self, response: Mapping[str, Any], shape: Shape) -> Any:
        if response["status_code"] == 200 and shape is not None and shape.name == GET_RECORDS:
            metadata = {"HTTPStatusCode": 200, "HTTPHeaders": dict(response["headers"])}
            return {FOUND: _found(response["body"]), "ResponseMetadata": metadata}
        return super().parse(response, shape)


def _found(body: bytes) -> Found:
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _found_slowly(body)


def _found_slowly(body: bytes) -> Found:
    try:
        page = outside_json.read(body)
    except outside_json.NotJson as error:
        raise UnreadablePage("an answer that is no JSON") from error
    found = page.get("Records") if isinstance(page, dict) else None
    if not isinstance(found, list):
        raise UnreadablePage("an answer without records")
    behind, children = page.get("MillisBehindLatest"), page.get("ChildShards")
    return Found(
        [_record(one) for one in found],
        _text_or_none(page.get("NextShardIterator")),
        _text_or_none(page.get("ContinuationSequenceNumber")),
        None if math.isnan(number := _number(behind)) else number,
        children if isinstance(children, list) else None,
    )


def _record(one: object) -> KinesisRecord:
    sequence = one.get("SequenceNumber") if isinstance(one, dict) else None
    if not isinstance(one, dict) or not isinstance(sequence, str) or not sequence.isascii() or not sequence:
        raise UnreadablePage("a record without a sequence number")
    key, data = one.get("PartitionKey"), one.get("Data", "")
    at = _number(one.get("ApproximateArrivalTimestamp"))
    raw = msgspec.Raw(json.dumps(data).encode())
    if isinstance(key, str) and isinstance(data, str):
        return KinesisRecord(key, sequence, at, raw)
    return UnreadableRecord("", sequence, at, raw)


def _text_or_none(value: object) -> str | None:
    """A text that tells where a shard goes on; only what is not there says that it has ended."""
    if value is not None and not isinstance(value, str):
        raise UnreadablePage("an answer that does not say where the shard goes on")
    return value


def _number(value: object) -> float:
    """A finite number, which may be written as text; NaN for all else."""
    try:
        number = float(value) if isinstance(value, (int, float, str)) else math.nan
    except (ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan
