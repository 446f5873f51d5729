"""A mapping on SQS, standard and FIFO, under the kit of all mappings."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from botocore.exceptions import ClientError

from millstream.store.sqlite import SqliteStore
from millstream.triggers.sqs import SqsTrigger
from tests.brokers.ministack import Ministack
from tests.contract.mapping_kit import Broker, MappingKit
from tests.hostile.corpus import Odd

pytestmark = pytest.mark.broker

VISIBILITY_S = 4


class SqsBroker(Broker):
    trigger = SqsTrigger
    kind = "sqs"
    largest = 900_000
    gives_up: ClassVar = {"maximum_retry_attempts": 0}
    can_be_made_anew = False

    def __init__(self, ministack: Ministack, fifo: bool) -> None:
        self.broker_url = ministack.endpoint_url
        self._fifo = fifo
        self._client = ministack.client("sqs")
        self._name = uuid.uuid4().hex + (".fifo" if fifo else "")
        self.options = {"queue": self._name}
        self.create()

    def create(self) -> None:
        attributes = {"VisibilityTimeout": str(VISIBILITY_S)} | ({"FifoQueue": "true"} if self._fifo else {})
        self._url = self._client.create_queue(QueueName=self._name, Attributes=attributes)["QueueUrl"]

    def remove(self) -> None:
        self._client.delete_queue(QueueUrl=self._url)

    def put(self, data: str) -> None:
        self._send(data, {})

    def put_odd(self, odd: Odd) -> bool:
        if not odd.text:
            return False
        attributes = {
            name.decode(): {"DataType": "Binary", "BinaryValue": value}
            for name, value in odd.headers
            if value and _is_a_name(name)
        }
        if odd.headers and not attributes:
            return False
        try:
            self._send(odd.text, dict(list(attributes.items())[:10]))
        except ClientError:  # what the service does not take, no producer can send
            return False
        return True

    def records(self, event: Any) -> Sequence[Any]:
        return list(event["Records"])

    def data(self, record: Any) -> bytes | None:
        return str(record["body"]).encode("utf-8", "surrogatepass")

    async def at_end(self, store: SqliteStore, mapping: str) -> bool:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=names)["Attributes"]
        return all(int(found[name]) == 0 for name in names)

    def close(self) -> None:
        self._client.close()

    def _send(self, body: str, attributes: dict[str, Any]) -> None:
        order: dict[str, Any] = {}
        if self._fifo:
            order = {"MessageGroupId": "k", "MessageDeduplicationId": uuid.uuid4().hex}
        self._client.send_message(QueueUrl=self._url, MessageBody=body, MessageAttributes=attributes, **order)


def _is_a_name(name: bytes) -> bool:
    try:
        return bool(name) and name.decode().isprintable()
    except UnicodeDecodeError:
        return False


class TestStandard(MappingKit):
    @pytest.fixture
    def broker(self, ministack: Ministack) -> Broker:
        return SqsBroker(ministack, fifo=False)


class TestFifo(MappingKit):
    @pytest.fixture
    def broker(self, ministack: Ministack) -> Broker:
        return SqsBroker(ministack, fifo=True)
