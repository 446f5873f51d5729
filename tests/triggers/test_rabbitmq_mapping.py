"""A mapping on RabbitMQ, queues and streams, under the kit of all mappings."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest

from millstream.contract.records import Position
from millstream.store.sqlite import SqliteStore
from millstream.triggers.rabbitmq import RabbitMqTrigger
from millstream.triggers.rabbitmq_stream import RabbitMqStreamTrigger
from millstream.triggers.rabbitmq_stream_messages import place_of
from tests.brokers.rabbitmq import RabbitMqServer
from tests.contract.mapping_kit import Broker, MappingKit, positions
from tests.hostile.amqp import ODD_HEADERS
from tests.hostile.corpus import Odd

pytestmark = pytest.mark.broker

LONGEST_NAME = 128  # of a header. Source: RabbitMQ's own clients; the protocol's limit is 255 bytes

SAID_WITHIN_S = 0.2
"""A consumer has been told by then that its queue is gone.

A quorum queue of RabbitMQ 3.10 that is declared within milliseconds of its deletion keeps its consumer, says
nothing, and assigns messages to it that are never sent: no client can know.
"""


class RabbitMqBroker(Broker):
    """What queues and streams share: messages are published over AMQP 0-9-1 alike."""

    largest = 1_000_000
    gives_up_odds = 0
    gives_up: ClassVar = {"maximum_retry_attempts": 0}
    queue_type = "quorum"

    def __init__(self, server: RabbitMqServer) -> None:
        self.server = server
        self.name = f"q-{uuid.uuid4().hex[:12]}"
        self.sent = 0  # since the queue was made
        self.create()

    def create(self) -> None:
        self.server.queue(self.queue_type, name=self.name)
        self.sent = 0

    def remove(self) -> None:
        self.server.delete(self.name)
        time.sleep(SAID_WITHIN_S)

    def put(self, data: str) -> None:
        self._send(data.encode(), {})

    def put_odd(self, odd: Odd) -> bool:
        headers: dict[str, Any] = {}
        for name, value in odd.headers:
            if _is_a_name(name):
                headers[name.decode()] = value
        if odd.key is not None or (odd.headers and not headers):
            return False
        properties: dict[str, Any] = {"headers": headers} if headers else {}
        if odd.at_ms is not None:
            if odd.at_ms < 0:
                return False  # the protocol's seconds have no sign
            properties["timestamp"] = odd.at_ms // 1000
        self._send(odd.body, properties)
        return True

    def put_own_odds(self) -> int:
        for headers in ODD_HEADERS:
            self._send(b"odd", {"headers": headers})
        return len(ODD_HEADERS)

    def records(self, event: Any) -> Sequence[Any]:
        return [message for messages in event["rmqMessagesByQueue"].values() for message in messages]

    def data(self, record: Any) -> bytes | None:
        return base64.b64decode(record["data"], validate=True)

    def _send(self, body: bytes, properties: Mapping[str, Any]) -> None:
        self.server.publish(self.name, body, **properties)
        self.sent += 1


class QueueBroker(RabbitMqBroker):
    trigger = RabbitMqTrigger
    kind = "rabbitmq"
    keeps_order = False  # batches of a queue run at once

    def __init__(self, server: RabbitMqServer, queue_type: str) -> None:
        self.queue_type = queue_type
        super().__init__(server)
        self.broker_url = server.url()
        self.options = {
            "queue": self.name,
            "url": self.broker_url,
            "batch_size": 10,
            "batching_window": 0.1,
        }

    async def at_end(self, store: SqliteStore, mapping: str) -> bool:
        return self.server.ready(self.name) == 0


class StreamBroker(RabbitMqBroker):
    trigger = RabbitMqStreamTrigger
    kind = "rabbitmq-stream"
    queue_type = "stream"

    def __init__(self, server: RabbitMqServer) -> None:
        super().__init__(server)
        self.broker_url = server.stream_url()
        self.options = {
            "stream": self.name,
            "url": self.broker_url,
            "starting_position": "TRIM_HORIZON",
            "batch_size": 10,
        }

    async def at_end(self, store: SqliteStore, mapping: str) -> bool:
        found = await positions(store, mapping)
        return [position and place_of(Position(position))[0] for position in found] == [self.sent - 1]


def _is_a_name(name: bytes) -> bool:
    try:
        return 0 < len(name.decode()) <= LONGEST_NAME
    except UnicodeDecodeError:
        return False


class TestQuorumQueue(MappingKit):
    @pytest.fixture
    def broker(self, rabbitmq: RabbitMqServer) -> Broker:
        return QueueBroker(rabbitmq, "quorum")


class TestClassicQueue(MappingKit):
    @pytest.fixture
    def broker(self, rabbitmq: RabbitMqServer) -> Broker:
        return QueueBroker(rabbitmq, "classic")


class TestStream(MappingKit):
    @pytest.fixture
    def broker(self, rabbitmq: RabbitMqServer) -> Broker:
        return StreamBroker(rabbitmq)
