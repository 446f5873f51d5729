"""Makes records from SQS messages: the event's bytes as the function sees them, encoded once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import md5
from typing import Any

import msgspec

from millstream.contract.records import Position, Record

_NO_ATTRIBUTES: dict[str, MessageAttribute] = {}
_DIGITS = 18
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue, and what a mapping on it needs to know."""

    name: str
    url: str
    arn: str
    region: str
    visibility_s: int
    windowed: bool  # the mapping has a batching window

    @property
    def fifo(self) -> bool:
        return self.arn.endswith(".fifo")


class MessageAttribute(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """One message attribute in the event; the lists are always there and always empty."""

    string_value: str | msgspec.UnsetType
    binary_value: bytes | msgspec.UnsetType
    string_list_values: tuple[()]
    binary_list_values: tuple[()]
    data_type: str


class Message(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """One record of the event, its keys in the order of the wire.

    Source: AWS, "Using Lambda with Amazon SQS", example event; tests/triggers/test_sqs.py.
    """

    message_id: str
    receipt_handle: str
    body: str
    attributes: dict[str, str]
    message_attributes: dict[str, MessageAttribute]
    md5_of_message_attributes: str | msgspec.UnsetType | None = msgspec.field(name="md5OfMessageAttributes")
    md5_of_body: str = msgspec.field(name="md5OfBody")
    event_source: str
    event_source_arn: str = msgspec.field(name="eventSourceARN")
    aws_region: str


def record(message: dict[str, Any], queue: Queue, received_at: float) -> Record:
    """The record of a message as boto3 gives it; only its id and receipt handle must be there.

    What the service says of a message and makes no sense is left out, or is that of a first delivery now.
    """
    attributes: dict[str, Any] = message.get("Attributes") or {}
    sent = message.get("MessageAttributes")
    item_id = message["MessageId"]
    receipt = message["ReceiptHandle"]
    body = message.get("Body", "")
    sent_ms = _whole(attributes.get("SentTimestamp"))
    event = Message(
        item_id,
        receipt,
        body,
        attributes,
        {name: _attribute(sent[name]) for name in sent} if sent else _NO_ATTRIBUTES,
        _md5(message, queue),
        message.get("MD5OfBody") or _md5_of(body),
        "aws:sqs",
        queue.arn,
        queue.region,
    )
    return Record(
        partition=queue.arn,
        position=Position(item_id),
        item_id=item_id,
        event=_event(event),
        arrived_at=received_at if sent_ms is None else sent_ms / 1000,
        received_at=received_at,
        delivery_count=max(_whole(attributes.get("ApproximateReceiveCount")) or 1, 1),
        ordering_key=attributes.get("MessageGroupId") if queue.fifo else None,
        receipt=receipt,
    )


def attributes_md5(attributes: dict[str, dict[str, Any]]) -> str:
    """The MD5 that SQS gives to message attributes.

    Source: AWS, "Calculating the MD5 message digest for message attributes".
    """
    digest = md5(usedforsecurity=False)

    def add(data: bytes) -> None:
        digest.update(len(data).to_bytes(4, "big") + data)

    for name in sorted(attributes):
        attribute = attributes[name]
        binary = attribute["DataType"].startswith("Binary")
        add(name.encode())
        add(attribute["DataType"].encode())
        digest.update(b"\x02" if binary else b"\x01")
        add(attribute["BinaryValue"] if binary else attribute["StringValue"].encode())
    return digest.hexdigest()


def _attribute(attribute: dict[str, Any]) -> MessageAttribute:
    return MessageAttribute(
        attribute.get("StringValue", msgspec.UNSET),
        attribute.get("BinaryValue", msgspec.UNSET),
        (),
        (),
        attribute.get("DataType", "String"),
    )


def _md5(message: dict[str, Any], queue: Queue) -> str | msgspec.UnsetType | None:
    """The hash; with no attributes null where the mapping has a window, else absent."""
    if message.get("MessageAttributes"):
        try:
            return message.get("MD5OfMessageAttributes") or attributes_md5(message["MessageAttributes"])
        except (KeyError, UnicodeEncodeError):  # of an attribute without type or value
            return msgspec.UNSET
    return None if queue.windowed else msgspec.UNSET


def _md5_of(body: str) -> str:
    return md5(body.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest()


def _whole(text: Any) -> int | None:
    """A whole number written as text. None: it is none, or more than a time or a count can be."""
    try:
        return int(text) if len(str(text)) <= _DIGITS else None
    except (TypeError, ValueError):
        return None


def _event(message: Message) -> bytes:
    try:
        return _encode(message)
    except UnicodeEncodeError:  # half a surrogate pair: JSON can hold it, escaped
        return json.dumps(msgspec.to_builtins(message), separators=(",", ":")).encode()
