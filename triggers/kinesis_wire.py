"""Decodes the answers that carry Kinesis records: what botocore's own parser does ten times slower.

What the quick decoder refuses is read again, record by record: one that makes no sense spoils no other.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from millstream.aws.record_pages import PageParsers, onward, page_of, sequence_number

EVENT = "SubscribeToShardEvent"
"""Key of a `Found` in an event of SubscribeToShard."""


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


class Found(msgspec.Struct, frozen=True):
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


class _Page(msgspec.Struct, frozen=True, rename="pascal"):
    """A `Found` whose records are not decoded yet."""

    records: list[msgspec.Raw]
    next_shard_iterator: str | None = None
    continuation_sequence_number: str | None = None
    millis_behind_latest: float | None = None
    child_shards: list[Any] | None = None


_decode_page = msgspec.json.Decoder(_Page).decode
_decode_record = msgspec.json.Decoder(KinesisRecord).decode


def parsers() -> PageParsers:
    """Return what makes the parsers of a client of Kinesis."""
    return PageParsers(_found, EVENT)


def _found(body: bytes) -> Found:
    """A page, decoded in two steps: no other thread runs during one call, which for 10 MB took 10 ms."""
    try:
        page = _decode_page(body)
        records = [_decode_record(raw) for raw in page.records]
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _found_slowly(body)
    return Found(
        records,
        page.next_shard_iterator,
        page.continuation_sequence_number,
        page.millis_behind_latest,
        page.child_shards,
    )


def _found_slowly(body: bytes) -> Found:
    page, records = page_of(body)
    behind, children = _number(page.get("MillisBehindLatest")), page.get("ChildShards")
    return Found(
        [_record(one) for one in records],
        onward(page, "NextShardIterator"),
        onward(page, "ContinuationSequenceNumber"),
        None if math.isnan(behind) else behind,
        children if isinstance(children, list) else None,
    )


def _record(one: Any) -> KinesisRecord:
    sequence = sequence_number(one)
    key, data = one.get("PartitionKey"), one.get("Data", "")
    at = _number(one.get("ApproximateArrivalTimestamp"))
    raw = msgspec.Raw(json.dumps(data).encode())
    if isinstance(key, str) and isinstance(data, str):
        return KinesisRecord(key, sequence, at, raw)
    return UnreadableRecord("", sequence, at, raw)


def _number(value: object) -> float:
    """A finite number, which may be written as text; NaN for all else."""
    try:
        number = float(value) if isinstance(value, (int, float, str)) else math.nan
    except (ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan
