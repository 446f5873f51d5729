"""Producers of a Kafka destination on a bad day. No broker is asked."""

from __future__ import annotations

import asyncio
import queue
import threading
from pathlib import Path
from typing import Any

import pytest
from kafka import errors as kafka_errors

from millstream.contract.clock import SystemClock
from millstream.contract.errors import DestinationUnavailable
from millstream.contract.ports import Host
from millstream.destinations import kafka, kafka_confluent, kafka_python
from millstream.destinations.kafka_confluent import ConfluentProducer
from millstream.destinations.kafka_producer import NotWritten
from millstream.destinations.kafka_python import KafkaPythonProducer
from millstream.kafka.access import Access
from tests.contract.destinations_kit import NoInvoker

WITHIN_S = 10.0
NOWHERE = Access("127.0.0.1:1")


def test_a_thread_that_cannot_start_fails_one_record_and_not_the_producer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kafka_confluent, "_look", lambda *_: 1000)
    producer = ConfluentProducer("kafka://127.0.0.1:1/t", "t", NOWHERE, 0.5)
    answers: queue.Queue[NotWritten | None] = queue.Queue()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as short, pytest.raises(DestinationUnavailable):
        short.setattr(threading.Thread, "start", refuse)
        producer.send(None, b"first", answers.put)
    producer.send(None, b"second", answers.put)
    assert isinstance(answers.get(timeout=WITHIN_S), NotWritten)  # an answer, as nobody listens there
    producer.close()


class Library:
    """Stands for kafka-python's producer, of which the second cannot be made, as no broker answers then."""

    made = 0

    def __init__(self, **_: Any) -> None:
        Library.made += 1
        self.closed = False
        if Library.made == 2:
            raise kafka_errors.KafkaTimeoutError

    def send(self, *_: Any) -> Any:
        if self.closed:
            raise kafka_errors.KafkaConnectionError("closed")
        return self

    def add_callback(self, told: Any) -> None:
        told(None)

    def add_errback(self, _: Any) -> None: ...

    def close(self, _: float) -> None:
        self.closed = True


def test_a_producer_that_cannot_be_replaced_at_once_is_replaced_with_a_later_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Library, "made", 0)
    monkeypatch.setattr(kafka_python, "KafkaProducer", Library)
    monkeypatch.setattr(kafka_python, "_look", lambda *_: 1000)
    producer = KafkaPythonProducer("kafka://127.0.0.1:1/t", "t", NOWHERE, 0.5)
    with pytest.raises(DestinationUnavailable):
        producer.learn(500)
        producer.send(None, b"first", lambda _: None)
    answers: list[NotWritten | None] = []
    producer.send(None, b"second", answers.append)
    assert answers == [None]
    producer.close()


async def test_a_producer_is_closed_that_connects_after_its_opening_was_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, goes_on, closed = threading.Event(), threading.Event(), threading.Event()

    class Producer:
        def close(self) -> None:
            closed.set()

    def slow(*_: object) -> Producer:
        asked.set()
        assert goes_on.wait(WITHIN_S)
        return Producer()

    monkeypatch.setattr(kafka, "admit", lambda _: None)
    monkeypatch.setattr(kafka, "new_producer", slow)
    here = Host(Path(), SystemClock(), NoInvoker())
    destination = kafka.KafkaDestination.parse({"target": "kafka://127.0.0.1:1/t"})
    async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
        opening = group.create_task(destination.open(here))
        while not asked.is_set():
            await asyncio.sleep(0)
        opening.cancel()
    goes_on.set()
    assert closed.wait(WITHIN_S)
