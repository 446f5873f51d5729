"""RabbitMQ's streams under the kit of all stream triggers."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from millstream.contract.records import Record
from millstream.triggers.rabbitmq_stream import RabbitMqStreamTrigger
from tests.brokers.rabbitmq import RabbitMqServer
from tests.contract.stream_kit import StreamKit
from tests.contract.streams import Stream

pytestmark = pytest.mark.broker

BAD_OPTIONS = (
    ("stream", ""),
    ("stream", "é" * 128),
    ("stream", 7),
    ("super_stream", True),
    ("url", "amqp://localhost"),
    ("url", "rabbitmq-stream://host:port"),
    ("virtual_host", ""),
    ("basic_auth", {"username": "u"}),
    ("ca_file", "beside-a-plain-url.pem"),
    ("heartbeat", 0),
    ("event_source_arn", "rabbit"),
    ("starting_position", "NEWEST"),
    ("starting_position", None),
    ("starting_position_timestamp", time.time() + 3600),
    ("batch_size", 0),
    ("batch_size", 10_001),
    ("batching_window", 301),
    ("maximum_retry_attempts", -2),
    ("maximum_record_age", 59),
    ("bisect_batch_on_function_error", 1),
    ("report_batch_item_failures", "yes"),
    ("on_failure_required", "no"),
    ("parallelization_factor", 2),
)


class RabbitMqStreamSource(Stream):
    """A stream that is written over AMQP 0-9-1, its keys in a header."""

    poll_mark = b"\x00\x07\x00\x01"  # Subscribe
    missing_name = "s-missing"

    def __init__(self, server: RabbitMqServer) -> None:
        self._server = server
        self._name = server.queue("stream")
        self.broker_url = server.stream_url()
        self.options = {"stream": self._name, "url": self.broker_url, "starting_position": "TRIM_HORIZON"}
        self.missing = {**self.options, "stream": self.missing_name}

    def options_at(self, url: str) -> Mapping[str, object]:
        return {**self.options, "url": self._server.stream_url(port=urlsplit(url).port)}

    def put(self, data: str, key: str = "k") -> None:
        self._server.publish(self._name, data.encode(), headers={"key": key}, message_id="m")

    def key(self, record: Record) -> str | None:
        return bytes(
            byte % 256 for byte in _message(record)["basicProperties"]["headers"]["key"]["bytes"]
        ).decode()

    def data(self, record: Record) -> str:
        return base64.b64decode(_message(record)["data"]).decode()

    def events(self, envelope: Any) -> Any:
        assert list(envelope) == ["eventSource", "eventSourceArn", "rmqMessagesByQueue"]
        ((queue, messages),) = envelope["rmqMessagesByQueue"].items()
        assert queue == f"{self._name}::/"
        return messages

    def event(self, record: Record, data: str, key: str) -> Mapping[str, Any]:
        names = "contentType contentEncoding headers deliveryMode priority correlationId replyTo expiration"
        names += " messageId timestamp type userId appId clusterId bodySize"
        known = {
            "headers": {"key": {"bytes": list(key.encode())}, "x-stream-offset": int(record.item_id)},
            "deliveryMode": 2,
            "messageId": "m",
            "bodySize": len(data.encode()),
        }
        return {
            "basicProperties": {name: known.get(name) for name in names.split()},
            "redelivered": False,
            "data": base64.b64encode(data.encode()).decode(),
        }


def _message(record: Record) -> dict[str, Any]:
    return msgspec.json.decode(record.event, type=dict[str, Any])


class TestStream(StreamKit):
    trigger = RabbitMqStreamTrigger
    bad_options = BAD_OPTIONS

    @pytest.fixture
    def stream(self, rabbitmq: RabbitMqServer) -> Stream:
        return RabbitMqStreamSource(rabbitmq)
