"""Reads the answers that carry stream records, and leaves their values as the service writes them.

botocore's own parser refuses a whole page for one time or one binary value that it cannot read. This one is
put in by botocore's component registry, so signing, retries and errors stay botocore's. Events have the
values as the service writes them, binary ones in base64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from botocore.model import Shape
from botocore.parsers import JSONParser, ResponseParser, ResponseParserError, ResponseParserFactory

from millstream.contract import outside_json

GET_RECORDS = "GetRecordsOutput"
FOUND = "Found"
"""Key of a `Found` in the answer of GetRecords."""


class UnreadablePage(ResponseParserError):
    """An answer that is none, or has a record without a place."""


@dataclass(frozen=True, slots=True)
class Found:
    """What GetRecords brought; each record is an object with a `dynamodb` object and a sequence number."""

    records: list[dict[str, Any]]
    next_shard_iterator: str | None  # None: the shard has ended


class DynamoDbParsers(ResponseParserFactory):
    """Makes the parsers of a client of DynamoDB Streams."""

    def create_parser(self, protocol_name: str) -> ResponseParser:
        """Ours for the protocol that DynamoDB Streams has, else botocore's."""
        return _Parser() if protocol_name == "json" else super().create_parser(protocol_name)


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


class _Parser(JSONParser):
    def parse(self, response: Mapping[str, Any], shape: Shape) -> Any:
        if response["status_code"] == 200 and shape is not None and shape.name == GET_RECORDS:
            metadata = {"HTTPStatusCode": 200, "HTTPHeaders": dict(response["headers"])}
            return {FOUND: _found(response["body"]), "ResponseMetadata": metadata}
        return super().parse(response, shape)


def _found(body: bytes) -> Found:
    try:
        page = outside_json.read(body)
    except outside_json.NotJson as error:
        raise UnreadablePage("an answer that is no JSON") from error
    records = page.get("Records") if isinstance(page, dict) else None
    if not isinstance(records, list):
        raise UnreadablePage("an answer without records")
    if not all(map(_has_a_place, records)):
        raise UnreadablePage("a record without a sequence number")
    onward = page.get("NextShardIterator")
    if onward is not None and not isinstance(onward, str):
        raise UnreadablePage("an answer that does not say where the shard goes on")
    return Found(records, onward)


def _has_a_place(one: object) -> bool:
    change = one.get("dynamodb") if isinstance(one, dict) else None
    sequence = change.get("SequenceNumber") if isinstance(change, dict) else None
    return isinstance(sequence, str) and sequence.isascii() and sequence != ""
