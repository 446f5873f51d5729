"""RabbitMQ's quorum and classic queues under the kit of all queue triggers."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from millstream.contract.records import Record
from millstream.triggers.rabbitmq import RabbitMqTrigger
from tests.brokers.rabbitmq import RabbitMqServer
from tests.contract.queue_kit import QueueKit, Source

pytestmark = pytest.mark.broker

BAD_OPTIONS = (
    ("queue", ""),
    ("queue", "é" * 128),
    ("queue", 7),
    ("url", "http://localhost:5672/"),
    ("url", "amqp://"),
    ("url", "amqp://user:hush@host:port/"),
    ("url", "amqp://host/a/b"),
    ("url", "amqp://host?heartbeat=5"),
    ("url", 7),
    ("virtual_host", ""),
    ("virtual_host", 7),
    ("basic_auth", {"username": "u"}),
    ("basic_auth", {"username": "u", "password": "hush", "more": "x"}),
    ("basic_auth", {"username": "u", "password": 7}),
    ("basic_auth", "u:hush"),
    ("ca_file", ""),
    ("ca_file", "beside-a-plain-url.pem"),
    ("heartbeat", 0),
    ("heartbeat", 3601),
    ("batch_size", 0),
    ("batch_size", 10_001),
    ("batch_size", True),
    ("batching_window", -1),
    ("batching_window", 301),
    ("batching_window", "1"),
    ("concurrency", 0),
    ("concurrency", 1001),
    ("concurrency", 656),
    ("report_batch_item_failures", "yes"),
    ("maximum_retry_attempts", -1),
    ("maximum_retry_attempts", 10_001),
    ("requeue", "no"),
    ("retry_delay", 0),
    ("retry_delay", 901),
    ("retry_backoff_max", 0.5),
    ("retry_backoff_max", "60"),
    ("consumer_timeout", 59),
    ("consumer_timeout", 1800.5),
    ("event_source_arn", "arn:aws:sqs:us-east-1:000000000000:queue"),
    ("event_source_arn", "rabbit"),
    ("prefetch", 10),
)


class RabbitMqSource(Source):
    poll_mark = b"\x00\x3c\x00\x14"  # basic.consume
    lease_s = 1.0

    def __init__(self, server: RabbitMqServer, kind: str) -> None:
        self._server = server
        self._queue = server.queue(kind)
        self.broker_url = server.url()
        self.options = {"queue": self._queue, "url": self.broker_url}

    def options_at(self, url: str) -> Mapping[str, object]:
        return {**self.options, "url": self._server.url(port=urlsplit(url).port)}

    def put(self, data: str, key: str = "k") -> None:
        self._server.publish(self._queue, data.encode())

    def data(self, record: Record) -> str:
        event = msgspec.json.decode(record.event, type=dict[str, Any])
        return base64.b64decode(event["data"]).decode()


class TestQuorumQueue(QueueKit):
    trigger = RabbitMqTrigger
    bad_options = BAD_OPTIONS

    @pytest.fixture
    def source(self, rabbitmq: RabbitMqServer) -> Source:
        return RabbitMqSource(rabbitmq, "quorum")


class TestClassicQueue(QueueKit):
    trigger = RabbitMqTrigger
    bad_options = BAD_OPTIONS

    @pytest.fixture
    def source(self, rabbitmq: RabbitMqServer) -> Source:
        return RabbitMqSource(rabbitmq, "classic")
