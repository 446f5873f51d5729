"""Makes records of librdkafka's messages, and tells what the events among them say."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, Message

from millstream.contract.records import Record
from millstream.contract.seldom import Seldom
from millstream.triggers.kafka_client import Polled
from millstream.triggers.kafka_confluent_errors import OUT_OF_RANGE, UNREADABLE
from millstream.triggers.kafka_headers import headers_of
from millstream.triggers.kafka_records import TIMESTAMP_TYPES, RecordMaker
from millstream.triggers.kafka_unreadable import GIVEN_UP

logger = logging.getLogger(__name__)

_KINDS = {number + 1: name for number, name in TIMESTAMP_TYPES.items()}  # librdkafka counts from 1


@dataclass
class _Told:
    """What the events of one poll say, by partition."""

    out_of_range: list[int] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)


class Messages:
    """Reads what polls of one topic bring; `on_error` is told of what concerns no partition's records."""

    def __init__(self, maker: RecordMaker, on_error: Callable[[KafkaError], None]) -> None:
        self._maker = maker
        self._on_error = on_error
        self._seldom = Seldom()

    def polled(self, messages: Sequence[Message]) -> Polled:
        found: dict[int, list[Record]] = {}
        received_at, make = time.time(), self._maker.record
        told = _Told()
        for message, headers in zip(messages, headers_of(messages), strict=True):
            partition, offset = message.partition(), message.offset()
            if message.error() is not None or partition is None or offset is None:
                self._note(message, told)
                continue
            kind, ms = message.timestamp()
            try:
                record = make(
                    partition,
                    offset,
                    _KINDS.get(kind, TIMESTAMP_TYPES[0]),
                    ms,
                    message.key(),
                    message.value(),
                    headers,
                    received_at,
                )
            except Exception as error:  # noqa: BLE001  bytes from outside
                record = self._unreadable(partition, offset, received_at, error)
            if partition in found:
                found[partition].append(record)
            else:
                found[partition] = [record]
        return Polled(found, told.out_of_range, told.ends, told.unreadable)

    def _unreadable(self, partition: int, offset: int, received_at: float, error: Exception) -> Record:
        why = type(error).__name__
        if self._seldom.due(why):
            extra = {"partition": self._maker.name(partition), "offset": offset, "why": why}
            logger.warning(GIVEN_UP, extra=extra)
        return self._maker.unreadable(partition, offset, received_at)

    def _note(self, message: Message, told: _Told) -> None:
        """Keep what an event in place of a message says."""
        error, partition, offset = message.error(), message.partition(), message.offset()
        if error is None:
            return
        code = error.code()
        if partition is None or partition < 0:
            self._on_error(error)
        elif code == KafkaError._PARTITION_EOF and offset is not None:
            told.ends[partition] = offset
        elif code in OUT_OF_RANGE:
            told.out_of_range.append(partition)
        elif code in UNREADABLE:
            told.unreadable[partition] = error.name()
        else:
            self._on_error(error)
