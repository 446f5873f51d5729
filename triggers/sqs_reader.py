"""Reads an SQS queue: polls in threads, makes records, extends and settles them."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import md5
from typing import Any, ParamSpec, TypeVar

import msgspec
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from millstream.contract.blocking import BlockingClient
from millstream.contract.clock import Clock
from millstream.contract.errors import InvalidConfiguration, Problem, SourceUnavailable
from millstream.contract.records import Position, Record, Resolution, Returned

logger = logging.getLogger(__name__)

POLL_THREADS = 5
SETTLE_THREADS = 5
THREADS = POLL_THREADS + SETTLE_THREADS
"""Threads of one mapping; polls and settlements have their own, so neither waits for the other."""

PAGE = 10
"""Most messages of one call. Source: AWS, ReceiveMessage and DeleteMessageBatch."""

LONGEST_POLL_S = 20
DELETE_ATTEMPTS = 3

REFUSED = frozenset(
    {
        "AWS.SimpleQueueService.NonExistentQueue",
        "QueueDoesNotExist",
        "AccessDenied",
        "AccessDeniedException",
        "InvalidAddress",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "KMS.AccessDeniedException",
        "KmsAccessDenied",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
"""Errors that no retry mends. Source: the service model of SQS, and AWS's common errors."""

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def source_errors(queue: str) -> Iterator[None]:
    """Turns botocore's faults into ours. A throttle is retried as any other fault."""
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        if code in REFUSED:
            found = f"{code}: {error.response['Error'].get('Message', '')}".rstrip(": ")
            raise InvalidConfiguration(
                [Problem("", "queue", f"a queue that answers ({queue})", found)]
            ) from error
        raise SourceUnavailable(f"{queue}: {code}") from error
    except (BotoCoreError, HTTPClientError) as error:
        raise SourceUnavailable(f"{queue}: {type(error).__name__}") from error


class MessageAttribute(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=False):
    """One message attribute in the event; the lists are always there and always empty."""

    string_value: str | msgspec.UnsetType
    binary_value: bytes | msgspec.UnsetType
    string_list_values: tuple[()]
    binary_list_values: tuple[()]
    data_type: str


class Message(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """One record of the event, its keys in the order of the wire.

    Source: AWS, "Using Lambda with Amazon SQS", example event; tests/triggers/test_sqs.py.
    """

    message_id: str
    receipt_handle: str
    body: str
    attributes: dict[str, str]
    message_attributes: dict[str, MessageAttribute]
    md5_of_message_attributes: str | msgspec.UnsetType | None = msgspec.field(name="md5OfMessageAttributes")
    md5_of_body: str = msgspec.field(name="md5OfBody")
    event_source: str
    event_source_arn: str = msgspec.field(name="eventSourceARN")
    aws_region: str


@dataclass(frozen=True, slots=True)
class Queue:
    """What a reader needs to know of its queue."""

    url: str
    arn: str
    region: str
    visibility_s: int
    windowed: bool


@dataclass(slots=True)
class _Poll:
    """One call of receive, shared with the thread that makes it."""

    abandoned: bool = False


class SqsReader:
    """Implements QueueReader. `read_from` comes before all else but `call` and `aclose`."""

    def __init__(self, client: Any, name: str, clock: Clock) -> None:
        self._client = client
        self._name = name
        self._clock = clock
        self._polling = BlockingClient(f"sqs-poll-{name}", POLL_THREADS)
        self._settling = BlockingClient(f"sqs-settle-{name}", SETTLE_THREADS)
        self._encode = msgspec.json.Encoder().encode
        self._lock = threading.Lock()
        self._in_flight: set[int] = set()  # polls, by id
        self._closed = False
        self._queue: Queue

    def read_from(self, queue: Queue) -> None:
        """Set the queue."""
        self._queue = queue

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking call beside the polls."""
        return await self._settling.call(function, *args, **kwargs)

    @property
    def lease_s(self) -> float | None:
        return float(self._queue.visibility_s)

    async def receive(self, limit: int, wait_s: float) -> Sequence[Record]:
        poll = _Poll()
        try:
            return await self._polling.call(self._receive, poll, min(limit, PAGE), wait_s)
        except asyncio.CancelledError:
            poll.abandoned = True
            raise

    def _receive(self, poll: _Poll, limit: int, wait_s: float) -> Sequence[Record]:
        with self._lock:
            self._in_flight.add(id(poll))
        try:
            with source_errors(self._name):
                answer = self._client.receive_message(
                    QueueUrl=self._queue.url,
                    MaxNumberOfMessages=limit,
                    WaitTimeSeconds=min(math.ceil(wait_s), LONGEST_POLL_S),
                    VisibilityTimeout=self._queue.visibility_s,
                    MessageAttributeNames=["All"],
                    MessageSystemAttributeNames=["All"],
                )
            messages = answer.get("Messages", ())
            if messages and (poll.abandoned or self._closed):
                self._give_back(messages)
                return ()
            received_at = self._clock.now()
            # By id: of two deliveries in one answer, the later one's receipt is the valid one.
            return tuple({m["MessageId"]: self._record(m, received_at) for m in messages}.values())
        finally:
            with self._lock:
                self._in_flight.discard(id(poll))
            self._close_if_unused()

    def _record(self, message: dict[str, Any], received_at: float) -> Record:
        attributes: dict[str, str] = message.get("Attributes", {})
        item = Message(
            message["MessageId"],
            message["ReceiptHandle"],
            message["Body"],
            attributes,
            {n: _attribute(a) for n, a in message["MessageAttributes"].items()}
            if "MessageAttributes" in message
            else {},
            self._attributes_md5(message),
            message["MD5OfBody"],
            "aws:sqs",
            self._queue.arn,
            self._queue.region,
        )
        return Record(
            partition=self._queue.arn,
            position=Position(item.message_id),
            item_id=item.message_id,
            event=self._event(item),
            arrived_at=int(attributes.get("SentTimestamp", 0)) / 1000,
            received_at=received_at,
            delivery_count=int(attributes.get("ApproximateReceiveCount", 1)),
            ordering_key=attributes.get("MessageGroupId") if self._queue.arn.endswith(".fifo") else None,
            receipt=item.receipt_handle,
        )

    def _event(self, item: Message) -> bytes:
        try:
            return self._encode(item)
        except UnicodeEncodeError:  # half a surrogate pair: JSON can hold it, escaped
            return json.dumps(msgspec.to_builtins(item), separators=(",", ":")).encode()

    def _attributes_md5(self, message: dict[str, Any]) -> str | msgspec.UnsetType | None:
        """The hash; with no attributes null where the mapping has a window, else absent."""
        if message.get("MessageAttributes"):
            return message.get("MD5OfMessageAttributes") or attributes_md5(message["MessageAttributes"])
        return None if self._queue.windowed else msgspec.UNSET

    def _give_back(self, messages: Sequence[dict[str, Any]]) -> None:
        """Make messages visible that came after the mapping had stopped."""
        entries = [
            {"Id": str(n), "ReceiptHandle": m["ReceiptHandle"], "VisibilityTimeout": 0}
            for n, m in enumerate(messages)
        ]
        with source_errors(self._name):
            self._client.change_message_visibility_batch(QueueUrl=self._queue.url, Entries=entries)

    async def extend(self, records: Sequence[Record]) -> None:
        for first in range(0, len(records), PAGE):
            await self._settling.call(self._extend, records[first : first + PAGE])

    def _extend(self, records: Sequence[Record]) -> None:
        entries = [
            {
                "Id": str(n),
                "ReceiptHandle": record.receipt,
                "VisibilityTimeout": self._queue.visibility_s,
            }
            for n, record in enumerate(records)
        ]
        with source_errors(self._name):  # entries that fail are gone already: nobody needs to hide them
            self._client.change_message_visibility_batch(QueueUrl=self._queue.url, Entries=entries)

    async def settle(self, resolution: Resolution) -> None:
        pairs = zip(resolution.batch.records, resolution.verdicts, strict=True)
        done = [record.receipt for record, verdict in pairs if not isinstance(verdict, Returned)]
        if len(done) <= PAGE:
            if done:
                await self._settling.call(self._delete, done)
            return
        pages = [done[first : first + PAGE] for first in range(0, len(done), PAGE)]
        try:
            async with asyncio.TaskGroup() as group:
                for page in pages:
                    group.create_task(self._settling.call(self._delete, page))
        except* SourceUnavailable as unavailable:
            raise unavailable.exceptions[0] from None

    def _delete(self, receipts: Sequence[str]) -> None:
        """Delete messages; those that the service does not delete are said, and come again."""
        left = list(receipts)
        for _ in range(DELETE_ATTEMPTS):
            entries = [{"Id": str(n), "ReceiptHandle": receipt} for n, receipt in enumerate(left)]
            with source_errors(self._name):
                answer = self._client.delete_message_batch(QueueUrl=self._queue.url, Entries=entries)
            failed = answer.get("Failed")
            if not failed:
                return
            left = [left[int(entry["Id"])] for entry in failed]
        codes = sorted({entry.get("Code", "unknown") for entry in failed})
        raise SourceUnavailable(f"{self._name}: {len(left)} messages not deleted: {', '.join(codes)}")

    async def backlog(self) -> int | None:
        names = ["ApproximateNumberOfMessages"]
        return await self._settling.call(self._attribute, names)

    def _attribute(self, names: list[str]) -> int:
        with source_errors(self._name):
            answer = self._client.get_queue_attributes(QueueUrl=self._queue.url, AttributeNames=names)
        return int(answer["Attributes"][names[0]])

    async def aclose(self) -> None:
        self._closed = True
        self._polling.close()
        self._settling.close()
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        with self._lock:
            if self._closed and not self._in_flight:
                self._client.close()


def _attribute(attribute: dict[str, Any]) -> MessageAttribute:
    return MessageAttribute(
        attribute.get("StringValue", msgspec.UNSET),
        attribute.get("BinaryValue", msgspec.UNSET),
        (),
        (),
        attribute["DataType"],
    )


def attributes_md5(attributes: dict[str, dict[str, Any]]) -> str:
    """The MD5 that SQS gives to message attributes.

    Source: AWS, "Calculating the MD5 message digest for message attributes".
    """
    digest = md5(usedforsecurity=False)

    def add(data: bytes) -> None:
        digest.update(len(data).to_bytes(4, "big") + data)

    for name in sorted(attributes):
        attribute = attributes[name]
        binary = attribute["DataType"].startswith("Binary")
        add(name.encode())
        add(attribute["DataType"].encode())
        digest.update(b"\x02" if binary else b"\x01")
        add(attribute["BinaryValue"] if binary else attribute["StringValue"].encode())
    return digest.hexdigest()
