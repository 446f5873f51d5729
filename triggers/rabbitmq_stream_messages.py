"""Makes records from the messages of RabbitMQ's streams: AMQP 1.0 on the wire, `aws:rmq` in the event."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
from rstream import AMQPMessage, amqp_decoder

from millstream.contract.records import Position, Record
from millstream.triggers.rabbitmq_messages import (
    STREAM_OFFSET,
    BasicProperties,
    Message,
    encode_message,
    english,
    signed,
)

_SECTION = (b"\x00\x53", b"\x00\x80")
"""How an AMQP 1.0 message begins; a producer may as well write bytes of any other kind."""

_BASIC = b"x-basic-"
"""What the broker puts before the names of AMQP 0-9-1's properties that AMQP 1.0 does not have."""

_BROKEN = (IndexError, KeyError, TypeError, ValueError, struct.error)
"""What the decoder raises for bytes that only begin like a message."""


class StreamRecordMaker:
    """Makes the records of one stream, or of one partition of a super stream."""

    def __init__(self, stream: str) -> None:
        self.stream = stream

    def record(self, offset: int, timestamp_ms: int, data: bytes, received_at: float) -> Record:
        """The record of a message; `timestamp_ms` is when the broker wrote it."""
        properties, body = _decoded(data, offset)
        message = Message(properties, redelivered=False, data=body, delivery_tag=msgspec.UNSET)
        return Record(
            partition=self.stream,
            position=Position(f"{offset}:{timestamp_ms}"),
            item_id=str(offset),
            event=encode_message(message),
            arrived_at=timestamp_ms / 1000,
            received_at=received_at,
            ordering_key=self.stream,  # all of it is in order
        )


def place_of(position: Position) -> tuple[int, int]:
    """Offset and timestamp (ms) in a position.

    The timestamp tells the stream from another one of its name: offsets begin at 0 in each.
    """
    offset, _, timestamp_ms = position.partition(":")
    return int(offset), int(timestamp_ms)


def _decoded(data: bytes, offset: int) -> tuple[BasicProperties, bytes]:
    if data[:2] in _SECTION:
        try:
            return _taken_apart(amqp_decoder(data), offset)
        except _BROKEN:
            pass  # it is of no format that we know, then
    return _properties({STREAM_OFFSET: offset}, len(data)), data


def _taken_apart(message: AMQPMessage, offset: int) -> tuple[BasicProperties, bytes]:
    body = _body(message)
    known, header = message.properties, message.header
    given: dict[bytes, Any] = message.application_properties or {}
    basic = {**(message.message_annotations or {}), **given}
    headers = {_text(name): _json(value) for name, value in given.items() if not name.startswith(_BASIC)}
    created_ms = known.creation_time if known else None
    return _properties(
        {**headers, STREAM_OFFSET: offset},
        len(body),
        content_type=known and _text(known.content_type),
        content_encoding=known and _text(known.content_encoding),
        delivery_mode=basic.get(_BASIC + b"delivery-mode", 2 if header and header.durable else None),
        priority=basic.get(_BASIC + b"priority", header.priority if header else None),
        correlation_id=known and _text(known.correlation_id),
        reply_to=known and _text(known.reply_to),
        expiration=_text(basic.get(_BASIC + b"expiration")),
        message_id=known and _text(known.message_id),
        timestamp=None if created_ms is None else english(created_ms // 1000),
        type=_text(basic.get(_BASIC + b"type")),
        user_id=known and _text(known.user_id),
        app_id=_text(basic.get(_BASIC + b"app-id")),
    ), body


def _properties(headers: dict[str, Any], body_bytes: int, **given: Any) -> BasicProperties:
    names = (name for name in BasicProperties.__struct_fields__ if name not in ("headers", "body_size"))
    return BasicProperties(headers=headers, body_size=body_bytes, **{name: given.get(name) for name in names})


def _body(message: AMQPMessage) -> bytes:
    """Of a message whose body is a value instead of data, that value's text."""
    if message.body is not None:
        return bytes(message.body)
    value = message.value if message.value is not None else message.sequence
    if isinstance(value, bytes):
        return value
    return b"" if value is None else msgspec.json.encode(_plain(value))


def _text(value: object) -> Any:
    if value is None:
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _json(value: object) -> Any:
    """A header as events have it; the decoder does not tell strings from byte arrays."""
    match value:
        case bytes():
            return {"bytes": signed(value)}
        case bool() | int() | float() | None:
            return value
        case list():
            return [_json(each) for each in value]
        case dict():
            return {_text(name): _json(each) for name, each in value.items()}
        case _:
            return str(value)


def _plain(value: object) -> Any:
    match value:
        case bytes():
            return value.decode("utf-8", "replace")
        case list():
            return [_plain(each) for each in value]
        case dict():
            return {_text(name): _plain(each) for name, each in value.items()}
        case _:
            return value
