"""Has botocore's clients read pages of records by a decoder of ours.

Parsers are put in by botocore's component registry, so signing, retries and errors stay botocore's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from botocore.model import Shape
from botocore.parsers import (
    EventStreamJSONParser,
    JSONParser,
    ResponseParser,
    ResponseParserError,
    ResponseParserFactory,
)

from millstream.contract import outside_json
from millstream.contract.errors import SourceUnavailable

GET_RECORDS = "GetRecordsOutput"
FOUND = "Found"
"""Key of what the decoder made of an answer of GetRecords."""


class UnreadablePage(ResponseParserError):
    """An answer that is none, or has a record without a place: the decoder's error, within botocore."""


class PageUnreadable(SourceUnavailable):
    """An answer of records that is none as a whole; fewer at a time may be."""


class PageParsers(ResponseParserFactory):
    """Makes the parsers of a client whose pages `decode` reads, and its events of the type `event`."""

    def __init__(self, decode: Callable[[bytes], Any], event: str | None = None) -> None:
        super().__init__()
        self._decode = decode
        self._event = event

    def create_parser(self, protocol_name: str) -> ResponseParser:
        """Ours for the protocol that record streams have, else botocore's."""
        if protocol_name != "json":
            return super().create_parser(protocol_name)
        decode, event = self._decode, self._event

        class Events(EventStreamJSONParser):
            def parse(self, response: Mapping[str, Any], shape: Shape) -> Any:
                if response["status_code"] == 200 and response["headers"].get(":event-type") == event:
                    return {event: decode(response["body"])}
                return super().parse(response, shape)

        class Pages(JSONParser):
            EVENT_STREAM_PARSER_CLS = Events

            def parse(self, response: Mapping[str, Any], shape: Shape) -> Any:
                if response["status_code"] == 200 and shape is not None and shape.name == GET_RECORDS:
                    metadata = {"HTTPStatusCode": 200, "HTTPHeaders": dict(response["headers"])}
                    return {FOUND: decode(response["body"]), "ResponseMetadata": metadata}
                return super().parse(response, shape)

        return Pages()


def page_of(body: bytes) -> tuple[dict[str, Any], list[Any]]:
    """Return a page of any records, and its records.

    Raises:
        UnreadablePage: it is none.
    """
    try:
        page = outside_json.read(body)
    except outside_json.NotJson as error:
        raise UnreadablePage("an answer that is no JSON") from error
    records = page.get("Records") if isinstance(page, dict) else None
    if not isinstance(records, list):
        raise UnreadablePage("an answer without records")
    return page, records


def onward(page: Mapping[str, Any], key: str) -> str | None:
    """Return a text that tells where a shard goes on; only what is not there says that it has ended.

    Raises:
        UnreadablePage: it is no text.
    """
    value = page.get(key)
    if value is not None and not isinstance(value, str):
        raise UnreadablePage("an answer that does not say where the shard goes on")
    return value


def sequence_number(holder: object) -> str:
    """Return the sequence number in an object.

    Raises:
        UnreadablePage: there is none; nobody knows then where the record ends.
    """
    sequence = holder.get("SequenceNumber") if isinstance(holder, dict) else None
    if not isinstance(sequence, str) or not sequence.isascii() or not sequence:
        raise UnreadablePage("a record without a sequence number")
    return sequence
