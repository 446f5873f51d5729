"""SQS, standard and FIFO, under the kit of all queue triggers."""

from __future__ import annotations

import uuid

import msgspec
import pytest

from millstream.contract.records import Record
from millstream.triggers.sqs import SqsTrigger
from tests.brokers.ministack import Ministack
from tests.contract.queue_kit import QueueKit, Source

pytestmark = pytest.mark.broker

BAD_OPTIONS = (
    ("queue", "not a queue"),
    ("queue", "arn:aws:sns:us-east-1:000000000000:topic"),
    ("queue", "https://"),
    ("queue", 7),
    ("batch_size", 0),
    ("batch_size", 10_001),
    ("batch_size", 1.5),
    ("batch_size", True),
    ("batching_window", -1),
    ("batching_window", 301),
    ("batching_window", 0.5),
    ("report_batch_item_failures", "yes"),
    ("maximum_concurrency", 1),
    ("maximum_concurrency", 1001),
    ("maximum_retry_attempts", -1),
    ("maximum_retry_attempts", 10_001),
    ("batchsize", 10),
)


class SqsSource(Source):
    poll_mark = b"AmazonSQS.ReceiveMessage"
    lease_s = 2.0

    def __init__(self, ministack: Ministack, fifo: bool) -> None:
        self.broker_url = ministack.endpoint_url
        self._url = ministack.queue(fifo, VisibilityTimeout=str(int(self.lease_s)))
        self._client = ministack.client("sqs")
        self._fifo = fifo
        self.options = {"queue": self._url.rpartition("/")[2]}

    def put(self, data: str, key: str = "k") -> None:
        order = {"MessageGroupId": key, "MessageDeduplicationId": uuid.uuid4().hex} if self._fifo else {}
        self._client.send_message(QueueUrl=self._url, MessageBody=data, **order)

    def data(self, record: Record) -> str:
        event = msgspec.json.decode(record.event, type=dict[str, object])
        return str(event["body"])

    def close(self) -> None:
        self._client.close()


class TestSqsStandard(QueueKit):
    trigger = SqsTrigger
    bad_options = BAD_OPTIONS

    @pytest.fixture
    def source(self, ministack: Ministack) -> Source:
        return SqsSource(ministack, fifo=False)


class TestSqsFifo(QueueKit):
    trigger = SqsTrigger
    bad_options = (*BAD_OPTIONS, ("batch_size", 11), ("batching_window", 1))

    @pytest.fixture
    def source(self, ministack: Ministack) -> Source:
        return SqsSource(ministack, fifo=True)
