"""Reads the answers that carry stream records, and leaves their values as the service writes them.

botocore's own parser refuses a whole page for one time or one binary value that it cannot read. Events have
the values as the service writes them, binary ones in base64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from millstream.aws.record_pages import PageParsers, UnreadablePage, onward, page_of, sequence_number


@dataclass(frozen=True, slots=True)
class Found:
    """What GetRecords brought; each record is an object with a `dynamodb` object and a sequence number."""

    records: list[dict[str, Any]]
    next_shard_iterator: str | None  # None: the shard has ended


def parsers() -> PageParsers:
    """Return what makes the parsers of a client of DynamoDB Streams."""
    return PageParsers(_found)


def sequence_of(one: dict[str, Any]) -> str:
    """The sequence number of a record of `Found`."""
    sequence: str = one["dynamodb"]["SequenceNumber"]
    return sequence


def created_at(one: dict[str, Any]) -> float | None:
    """When the change of a record was made: Unix seconds, which may be written as text. None: unknown."""
    value = one["dynamodb"].get("ApproximateCreationDateTime")
    try:
        at = float(value) if isinstance(value, (int, float, str)) else math.nan
    except (ValueError, OverflowError):
        return None
    return at if math.isfinite(at) else None


def _found(body: bytes) -> Found:
    page, records = page_of(body)
    for one in records:
        if not isinstance(one, dict):
            raise UnreadablePage("a record that is no object")
        sequence_number(one.get("dynamodb"))
    return Found(records, onward(page, "NextShardIterator"))
