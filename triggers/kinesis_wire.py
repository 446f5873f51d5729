"""Decodes the answers that carry Kinesis records: what botocore's own parser does ten times slower.

The parser is put in by botocore's component registry, so signing, retries and errors stay botocore's.
"""

from __future__ import annotations

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

GET_RECORDS = "GetRecordsOutput"
EVENT = "SubscribeToShardEvent"
FOUND = "Found"
"""Key of a `Found` in the answer of GetRecords."""


class KinesisRecord(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    """One record as the service gives it."""

    partition_key: str
    sequence_number: str
    approximate_arrival_timestamp: float  # Unix seconds
    data: msgspec.Raw = msgspec.Raw(b'""')  # a JSON string in base64, as the function will see it


class Found(msgspec.Struct, frozen=True, rename="pascal"):
    """What GetRecords or one event of SubscribeToShard brought; None where the service said nothing."""

    records: list[KinesisRecord] = []
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
    except msgspec.DecodeError as error:
        raise ResponseParserError(f"records that cannot be read: {error}") from error
