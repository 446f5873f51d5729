"""A Kafka topic as a destination: the record is a message, acknowledged by all replicas."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field

from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import DestinationUnavailable, DocumentTooLarge, Refused, SourceUnavailable
from millstream.contract.ports import Host, InvocationRecord, Payload
from millstream.contract.records import DestinationReceipt
from millstream.destinations.kafka_producer import (
    OVERHEAD_BYTES,
    USUAL_LIMIT_BYTES,
    NotWritten,
    Producer,
    new_producer,
)
from millstream.destinations.targets import parse_target
from millstream.kafka.access import access_of
from millstream.kafka.admission import admit
from millstream.kafka.libraries import chosen
from millstream.kafka.options import SECRET_FIELDS, KafkaAccessOptions, is_server

SCHEME = "kafka://"
DELIVER_S = 10.0

MARGIN_S = 5.0
"""What an answer is waited for longer than the library takes to give a record up."""

NEW_TOPIC_S = 1.0
"""How long a topic that was made just now may be unknown to a broker."""

_TARGET = re.compile(r"kafka://([^/@?#\s]+)/([A-Za-z0-9._-]{1,249})")


def _topic_url(target: str) -> str:
    parts = _TARGET.fullmatch(target)
    if parts is None or not all(map(is_server, parts[1].split(","))) or parts[2] in (".", ".."):
        raise ValueError("a topic and its servers (kafka://b1.example.com:9092,b2.example.com:9092/failed)")
    return target


class KafkaDestinationOptions(KafkaAccessOptions):
    """`target` is `kafka://HOST:PORT[,HOST:PORT]/TOPIC`; the others are those of a Kafka mapping."""

    target: Annotated[str, AfterValidator(_topic_url)]
    client: Literal["auto", "confluent", "kafka-python"] = Field(
        default="auto", description='"auto", "confluent" or "kafka-python"'
    )
    timeout: float = Field(default=DELIVER_S, gt=0, le=60, description="seconds, above 0 and up to 60")


class KafkaDestination:
    """Implements Destination."""

    payload = Payload.RECORD

    def __init__(self, options: KafkaDestinationOptions) -> None:
        self.name = options.target
        self._options = options
        self._servers, _, self._topic = options.target.removeprefix(SCHEME).rpartition("/")
        self._producer: Producer | None = None
        self._calls: BlockingClient | None = None

    @property
    def limit_bytes(self) -> int:
        return USUAL_LIMIT_BYTES - OVERHEAD_BYTES if self._producer is None else self._producer.limit_bytes

    @classmethod
    def claims(cls, target: str) -> bool:
        return target.startswith(SCHEME)

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        return cls(parse_target(KafkaDestinationOptions, options, SECRET_FIELDS))

    async def open(self, host: Host) -> None:
        library = chosen(self._options.client)
        calls = BlockingClient("kafka-destination", 1)  # one: records of one key keep their order
        abandoned = threading.Event()
        try:
            self._producer = await calls.call(self._connected, library, host, abandoned)
        except BaseException:
            abandoned.set()
            calls.close()
            raise
        self._calls = calls

    async def deliver(self, record: InvocationRecord) -> DestinationReceipt:
        if self._producer is None or self._calls is None:
            raise DestinationUnavailable(f"{self.name}: closed")
        if record.size_bytes > self.limit_bytes:
            raise DocumentTooLarge(f"{self.name}: {record.size_bytes} bytes, above {self.limit_bytes}")
        try:
            async with asyncio.timeout(self._options.timeout + MARGIN_S):
                failure = await self._sent(record, self._producer, self._calls)
                if failure is not None and failure.too_large:
                    await self._calls.call(self._producer.learn, record.size_bytes)
        except TimeoutError as error:
            raise DestinationUnavailable(f"{self.name}: no answer") from error
        if failure is None:
            return DestinationReceipt(self.name)
        raise (DocumentTooLarge if failure.too_large else DestinationUnavailable)(
            f"{self.name}: {failure.why}"
        )

    async def _sent(
        self, record: InvocationRecord, producer: Producer, calls: BlockingClient
    ) -> NotWritten | None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[NotWritten | None] = loop.create_future()

        def answer(failure: NotWritten | None) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_finish, future, failure)

        try:
            await calls.call(producer.send, record.key, record.body, answer)
        except DocumentTooLarge:
            return NotWritten("larger than the client sends", too_large=True)
        return await future

    async def aclose(self) -> None:
        if self._producer is not None and self._calls is not None:
            producer, calls = self._producer, self._calls
            self._producer = self._calls = None
            try:
                await calls.call(producer.close)
            finally:
                calls.close()

    def _connected(self, library: str, host: Host, abandoned: threading.Event) -> Producer:
        try:
            access = access_of(self._options, self._servers, host)
            admit(access)
        except SourceUnavailable as unavailable:
            raise DestinationUnavailable(f"{self.name}: {unavailable}") from unavailable
        until = time.monotonic() + NEW_TOPIC_S
        while True:
            try:
                producer = new_producer(library, self.name, self._topic, access, self._options.timeout)
                if abandoned.is_set():  # nobody waits for the producer any more
                    producer.close()
                return producer
            except Refused:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)


def _finish(future: asyncio.Future[NotWritten | None], failure: NotWritten | None) -> None:
    if not future.done():
        future.set_result(failure)
