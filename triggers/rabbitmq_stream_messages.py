"""Makes records from the messages of RabbitMQ's streams: AMQP 1.0 on the wire, `aws:rmq` in the event."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from millstream.contract.records import Position, Reason, Record
from millstream.contract.seldom import Seldom
from millstream.triggers.rabbitmq_messages import (
    STREAM_OFFSET,
    BasicProperties,
    Message,
    encode_message,
    english,
    signed,
)
from millstream.triggers.rabbitmq_stream_amqp import Milliseconds, Sections, Unreadable, Value, read_message

logger = logging.getLogger(__name__)

_SECTION = (b"\x00\x53", b"\x00\x80")
"""How an AMQP 1.0 message begins; a producer may as well write bytes of any other kind."""

_BASIC = b"x-basic-"
"""What the broker puts before the names of AMQP 0-9-1's properties that AMQP 1.0 does not have."""

_DURABLE, _PRIORITY = 0, 1
_MESSAGE_ID, _USER_ID, _REPLY_TO, _CORRELATION_ID, _CONTENT_TYPE, _CONTENT_ENCODING, _CREATED = (
    0,
    1,
    4,
    5,
    6,
    7,
    9,
)
"""Places in the header and in the properties. Source: AMQP 1.0, part 3, sections 3.2.1 and 3.2.4."""


_NO_PROPERTIES: dict[str, Any] = {
    name: None for name in BasicProperties.__struct_fields__ if name not in ("headers", "body_size")
}


class StreamRecordMaker:
    """Makes the records of one stream, or of one partition of a super stream."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self._seldom = Seldom()

    def record(self, offset: int, timestamp_ms: int, data: bytes, received_at: float) -> Record:
        """The record of a message; `timestamp_ms` is when the broker wrote it.

        A message that looks like one of AMQP 1.0 and cannot be taken apart is delivered as it came.
        """
        found: tuple[BasicProperties, bytes] | None = None
        if data[:2] in _SECTION:
            try:
                found = _taken_apart(read_message(data), offset)
            except Unreadable as unreadable:
                about = {"stream": self.stream, "offset": offset}
                sentence = "message cannot be taken apart, delivered as it came"
                self._seldom.warning(logger, sentence, str(unreadable), **about)
        properties, body = found or (_properties({STREAM_OFFSET: offset}, len(data)), data)
        return self._record(offset, timestamp_ms, properties, body, received_at, None)

    def refused(
        self, offset: int, timestamp_ms: int, data: bytes, encoding: str | None, received_at: float
    ) -> Record:
        """The record of a message in a sub-batch that cannot be read, which the mapping gives up.

        `data` is the sub-batch as it came for its first message, whose encoding the event names, and
        empty for the others.
        """
        properties = _properties({STREAM_OFFSET: offset}, len(data), content_encoding=encoding)
        reason = Reason.DESERIALIZATION_ERROR
        return self._record(offset, timestamp_ms, properties, data, received_at, reason)

    def _record(
        self,
        offset: int,
        timestamp_ms: int,
        properties: BasicProperties,
        body: bytes,
        received_at: float,
        refused: Reason | None,
    ) -> Record:
        message = Message(properties, redelivered=False, data=body, delivery_tag=msgspec.UNSET)
        return Record(
            partition=self.stream,
            position=Position(f"{offset}:{timestamp_ms}"),
            item_id=str(offset),
            event=encode_message(message),
            arrived_at=timestamp_ms / 1000,
            received_at=received_at,
            ordering_key=self.stream,  # all of it is in order
            refused=refused,
        )


def place_of(position: Position) -> tuple[int, int]:
    """Offset and timestamp (ms) in a position.

    The timestamp tells the stream from another one of its name: offsets begin at 0 in each.
    """
    offset, _, timestamp_ms = position.partition(":")
    return int(offset), int(timestamp_ms)


def _taken_apart(message: Sections, offset: int) -> tuple[BasicProperties, bytes]:
    body = _body(message)
    given = message.application
    basic = {**message.annotations, **given}
    headers = {_key(name): _json(value) for name, value in given.items() if not _is_basic(name)}
    durable, created = _at(message.header, _DURABLE), _at(message.properties, _CREATED)
    return _properties(
        {**headers, STREAM_OFFSET: offset},
        len(body),
        content_type=_text(_at(message.properties, _CONTENT_TYPE)),
        content_encoding=_text(_at(message.properties, _CONTENT_ENCODING)),
        delivery_mode=_number(basic.get(_BASIC + b"delivery-mode", 2 if durable is True else None)),
        priority=_number(basic.get(_BASIC + b"priority", _at(message.header, _PRIORITY))),
        correlation_id=_text(_at(message.properties, _CORRELATION_ID)),
        reply_to=_text(_at(message.properties, _REPLY_TO)),
        expiration=_text(basic.get(_BASIC + b"expiration")),
        message_id=_text(_at(message.properties, _MESSAGE_ID)),
        timestamp=english(created // 1000) if isinstance(created, Milliseconds) else None,
        type=_text(basic.get(_BASIC + b"type")),
        user_id=_text(_at(message.properties, _USER_ID)),
        app_id=_text(basic.get(_BASIC + b"app-id")),
    ), body


def _properties(headers: dict[str, Any], body_bytes: int, **given: Any) -> BasicProperties:
    return BasicProperties(**(_NO_PROPERTIES | given), headers=headers, body_size=body_bytes)


def _body(message: Sections) -> bytes:
    """Return the body; of one that is a value instead of data, the value as JSON."""
    if message.data is not None:
        return message.data
    value = message.value if message.value is not None else message.sequences or None
    if isinstance(value, bytes):
        return value
    return b"" if value is None else msgspec.json.encode(_plain(value))


def _at(values: list[Value], place: int) -> Value:
    """A field of a list, which may be left out at its end."""
    return values[place] if place < len(values) else None


def _is_basic(name: object) -> bool:
    return isinstance(name, bytes) and name.startswith(_BASIC)


def _text(value: Value) -> str | None:
    """A property as a string. None: it is of a type that no string is made of."""
    match value:
        case bytes():
            return value.decode("utf-8", "replace")
        case bool() | Milliseconds():
            return None
        case str() | int():
            return str(value)
        case _:
            return None


def _number(value: Value) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool | Milliseconds) else None


def _key(name: object) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _json(value: Value) -> Any:
    """A header as events have it; what was a string is not told from binary."""
    match value:
        case bytes():
            return {"bytes": signed(value)}
        case Milliseconds():
            return english(value // 1000)
        case list():
            return [_json(each) for each in value]
        case dict():
            return {_key(name): _json(each) for name, each in value.items()}
        case _:
            return value


def _plain(value: Value) -> Any:
    match value:
        case bytes():
            return value.decode("utf-8", "replace")
        case Milliseconds():
            return int(value)
        case list():
            return [_plain(each) for each in value]
        case dict():
            return {_key(name): _plain(each) for name, each in value.items()}
        case _:
            return value
