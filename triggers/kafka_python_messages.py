"""Makes records of what polls of kafka-python bring."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from millstream.contract.records import Record
from millstream.contract.seldom import Seldom
from millstream.triggers.kafka_decoding import why_unread
from millstream.triggers.kafka_records import TIMESTAMP_TYPES, RecordMaker
from millstream.triggers.kafka_unreadable import GIVEN_UP

logger = logging.getLogger(__name__)


class PythonMessages:
    """Reads what polls of one topic bring."""

    def __init__(self, maker: RecordMaker) -> None:
        self._maker = maker
        self._seldom = Seldom()

    def records(self, found: Mapping[Any, Sequence[Any]]) -> dict[int, list[Record]]:
        """The records of each partition, in order; what cannot be read is to be given up."""
        received_at = time.time()
        return {
            place.partition: [self._record(message, received_at) for message in messages]
            for place, messages in found.items()
        }

    def _record(self, message: Any, received_at: float) -> Record:
        why = why_unread(message)
        try:
            if why is None:
                return self._maker.record(
                    message.partition,
                    message.offset,
                    TIMESTAMP_TYPES.get(message.timestamp_type, TIMESTAMP_TYPES[0]),
                    message.timestamp,
                    message.key,
                    message.value,
                    message.headers,
                    received_at,
                )
        except Exception as error:  # noqa: BLE001  bytes from outside
            why = type(error).__name__
        if self._seldom.due(why):
            name = self._maker.name(message.partition)
            logger.warning(GIVEN_UP, extra={"partition": name, "offset": message.offset, "why": why})
        return self._maker.unreadable(message.partition, message.offset, received_at, message.value)
