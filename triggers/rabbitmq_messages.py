"""Makes records from RabbitMQ's messages: the event's bytes as the function sees them, encoded once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from millstream.amqp.wire import ByteArray, Properties, Timestamp
from millstream.contract.records import Position, Record
from millstream.contract.seldom import Seldom

logger = logging.getLogger(__name__)

DELIVERY_COUNT = "x-delivery-count"
"""How often a quorum queue has taken the message back. Source: RabbitMQ, "Quorum Queues", poison messages."""

DEATHS = "x-death"
"""Where a message was dead-lettered, and how often. Source: RabbitMQ, "Dead Letter Exchanges"."""

UNCOUNTED = 2
"""The count of each further delivery from a queue that does not count."""

STREAM_OFFSET = "x-stream-offset"
"""What each message of a stream has, and no other. Source: RabbitMQ, "Streams and Superstreams"."""

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAY_S = 86_400
_FOUR_CENTURIES_S = 146_097 * _DAY_S
_SAFE_S = 8000 * 365 * _DAY_S

MOST_DELIVERIES = 1_000_000
"""A count above it is none of a broker's."""

encode_message = msgspec.json.Encoder(decimal_format="number").encode


class RecordMaker:
    """Makes the records of one queue; `numbered` ones tell the function their delivery tags."""

    def __init__(self, queue: str, virtual_host: str, numbered: bool) -> None:
        self.queue = queue
        self._partition = partition(queue, virtual_host)
        self._numbered = numbered
        self._seldom = Seldom()

    def record(
        self, number: int, redelivered: bool, properties: Properties, body: bytes, received_at: float
    ) -> Record:
        """The record of a message; `number` tells it from each other one that this daemon has had.

        Whatever a producer has set, the body is delivered: properties that cannot be written are left out.
        """
        why = properties.unread
        try:
            record = self._record(number, redelivered, properties, body, received_at)
        except Exception as error:  # noqa: BLE001  # it is bytes from outside; the body is what counts
            why = type(error).__name__
            record = self._record(number, redelivered, Properties(), body, received_at)
        if why is not None:
            about = {"queue": self.queue, "position": record.position}
            self._seldom.warning(logger, "properties of a message not read, left out", why, **about)
        return record

    def _record(
        self, number: int, redelivered: bool, p: Properties, body: bytes, received_at: float
    ) -> Record:
        item_id = str(number)
        event = Message(
            BasicProperties(
                p.content_type,
                p.content_encoding,
                None if p.headers is None else {name: _json(value) for name, value in p.headers.items()},
                p.delivery_mode,
                p.priority,
                p.correlation_id,
                p.reply_to,
                p.expiration,
                p.message_id,
                None if p.timestamp is None else english(p.timestamp),
                p.type,
                p.user_id,
                p.app_id,
                p.cluster_id,
                len(body),
            ),
            redelivered,
            body,
            item_id if self._numbered else msgspec.UNSET,
        )
        return Record(
            partition=self._partition,
            position=Position(item_id),
            item_id=item_id,
            event=encode_message(event),
            arrived_at=_arrival(p.timestamp, received_at),
            received_at=received_at,
            delivery_count=delivery_count(redelivered, p.headers, self.queue),
            receipt=item_id,
        )


class BasicProperties(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """The properties of a message in the event, in the order of the wire."""

    content_type: str | None
    content_encoding: str | None
    headers: dict[str, Any] | None
    delivery_mode: int | None
    priority: int | None
    correlation_id: str | None
    reply_to: str | None
    expiration: str | None
    message_id: str | None
    timestamp: str | None
    type: str | None
    user_id: str | None
    app_id: str | None
    cluster_id: str | None
    body_size: int


class Message(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """One message in the event; msgspec writes `bytes` as base64. `delivery_tag` is ours.

    Source: AWS, "Using Lambda with Amazon MQ", example event; tests/triggers/test_rabbitmq_messages.py.
    """

    basic_properties: BasicProperties
    redelivered: bool
    data: bytes
    delivery_tag: str | msgspec.UnsetType


def envelope(event_source_arn: str, queue: str, records: Sequence[Record]) -> bytes:
    """The event; `queue` is as `partition` names it."""
    source, name = encode_message(event_source_arn), encode_message(queue)
    start = b'{"eventSource":"aws:rmq","eventSourceArn":%b,"rmqMessagesByQueue":{%b:[' % (source, name)
    return start + b",".join([record.event for record in records]) + b"]}}"


def partition(queue: str, virtual_host: str) -> str:
    """A queue as events name it. Source: AWS, "Using Lambda with Amazon MQ", example event."""
    return f"{queue}::{virtual_host}"


def delivery_count(redelivered: bool, headers: dict[str, Any] | None, queue: str) -> int:
    """How often the message was delivered, this time included.

    A quorum queue counts itself. Where rejected messages come back by way of a dead-letter exchange,
    each round counts. A classic queue tells only the first delivery from the others: 1, or 2. Headers of
    a shape that no broker writes count nothing.
    """
    if not headers:
        return UNCOUNTED if redelivered else 1
    rounds = sum(_rounds(death, queue) for death in _listed(headers.get(DEATHS)))
    returned = taken_back(headers) if redelivered else 0
    if returned is None:
        returned = 1
    return min(1 + returned + rounds, MOST_DELIVERIES)


def taken_back(headers: dict[str, Any] | None) -> int | None:
    """How often a quorum queue has taken the message back. None: it does not say."""
    return _count((headers or {}).get(DELIVERY_COUNT))


def _rounds(death: object, queue: str) -> int:
    """How often the message was rejected from the queue, by one entry of its deaths."""
    if not isinstance(death, dict) or death.get("reason") != b"rejected":
        return 0
    return _count(death.get("count")) or 0 if death.get("queue") == queue.encode() else 0


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _count(value: object) -> int | None:
    """A count as brokers write it. None: it is none."""
    if not isinstance(value, int) or isinstance(value, bool | Timestamp):
        return None
    return value if 0 <= value <= MOST_DELIVERIES else None


@lru_cache(maxsize=1024)  # most messages of a batch have been sent within a few seconds
def english(seconds: int) -> str:
    """A time as events have it: `Jan 1, 1970, 12:33:41 AM`, in UTC, and in English on any host."""
    cycles = 0
    if not 0 <= seconds < _SAFE_S:  # a producer that gave milliseconds, or worse: the calendar repeats itself
        cycles, seconds = divmod(seconds, _FOUR_CENTURIES_S)
    at = datetime.fromtimestamp(seconds, UTC)
    clock = f"{at.hour % 12 or 12}:{at:%M:%S} {'AM' if at.hour < 12 else 'PM'}"
    return f"{_MONTHS[at.month - 1]} {at.day}, {at.year + 400 * cycles}, {clock}"


def _arrival(timestamp: int | None, received_at: float) -> float:
    """When it was sent, as its producer says, unless that is far ahead: some give milliseconds."""
    sent = timestamp is not None and timestamp < received_at + _DAY_S
    return float(timestamp or 0) if sent else received_at


def _json(value: object) -> Any:
    """A header as events have it: a string as an object of its bytes, which are signed as Java's are."""
    match value:
        case ByteArray():
            return signed(value)
        case bytes():
            return {"bytes": signed(value)}
        case Timestamp():
            return english(value)
        case list():
            return [_json(each) for each in value]
        case dict():
            return {name: _json(each) for name, each in value.items()}
        case _:
            return value


def signed(data: bytes) -> list[int]:
    """Bytes as Java has them, from -128 to 127."""
    return [byte - 256 if byte > 127 else byte for byte in data]
