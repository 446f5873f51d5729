"""Reads an SQS queue: polls in threads, makes records, extends and settles them."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from millstream.aws.source_errors import source_errors as errors_of
from millstream.contract.blocking import BlockingClient
from millstream.contract.clock import Clock
from millstream.contract.errors import InvalidConfiguration, SourceUnavailable
from millstream.contract.records import Record, Resolution, Returned
from millstream.triggers.sqs_messages import Queue, record

logger = logging.getLogger(__name__)

POLL_THREADS = 5
SETTLE_THREADS = 5
THREADS = POLL_THREADS + SETTLE_THREADS
"""Threads of one mapping; polls and settlements have their own, so neither waits for the other."""

PAGE = 10
"""Most messages of one call. Source: AWS, ReceiveMessage and DeleteMessageBatch."""

LONGEST_POLL_S = 20

DELETE_WAITS_S = (0.0, 0.1, 0.5)
"""Before each try to delete what the service, itself at fault, did not delete."""

REFUSED = frozenset(
    {
        "AWS.SimpleQueueService.NonExistentQueue",
        "QueueDoesNotExist",
        "InvalidAddress",
        "InvalidSecurity",
        "KMS.AccessDeniedException",
        "KmsAccessDenied",
    }
)
"""Errors of SQS that no retry mends. Source: the service model of SQS."""

T = TypeVar("T")


def source_errors(queue: str) -> AbstractContextManager[None]:
    """Turns botocore's faults into ours."""
    return errors_of("queue", queue, REFUSED)


@dataclass(slots=True)
class _Poll:
    """One call of receive, shared with the thread that makes it."""

    abandoned: bool = False  # nobody waits for its records any more
    brought: Sequence[dict[str, Any]] = ()


class SqsReader:
    """Implements QueueReader. The client is its own, and closed with it."""

    def __init__(self, client: Any, queue: Queue, clock: Clock) -> None:
        self._client = client
        self._queue = queue
        self._name = queue.name
        self._clock = clock
        self._polling = BlockingClient(f"sqs-poll-{queue.name}", POLL_THREADS)
        self._settling = BlockingClient(f"sqs-settle-{queue.name}", SETTLE_THREADS)
        self._lock = threading.Lock()
        self._in_flight = 0  # polls
        self._closed = False

    @property
    def lease_s(self) -> float | None:
        return float(self._queue.visibility_s)

    async def receive(self, limit: int, wait_s: float) -> Sequence[Record]:
        poll = _Poll()
        try:
            return await self._polling.call(self._receive, poll, min(limit, PAGE), wait_s)
        except asyncio.CancelledError:
            with self._lock:
                poll.abandoned = True
            if poll.brought and not self._closed:
                await self._settling.call(self._give_back, poll.brought)
            raise

    def _receive(self, poll: _Poll, limit: int, wait_s: float) -> Sequence[Record]:
        with self._lock:
            if poll.abandoned or self._closed:
                return ()
            self._in_flight += 1
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
            if not messages:
                return ()
            with self._lock:
                wanted = not (poll.abandoned or self._closed)
                poll.brought = messages if wanted else ()
            if not wanted:
                self._give_back(messages)
                return ()
            received_at = self._clock.now()
            # By id: of two deliveries in one answer, the later one's receipt is the valid one.
            return tuple({m["MessageId"]: record(m, self._queue, received_at) for m in messages}.values())
        finally:
            with self._lock:
                self._in_flight -= 1
            self._close_if_unused()

    def _give_back(self, messages: Sequence[dict[str, Any]]) -> None:
        """Make messages visible that came after the mapping had stopped."""
        entries = [
            {"Id": str(n), "ReceiptHandle": m["ReceiptHandle"], "VisibilityTimeout": 0}
            for n, m in enumerate(messages)
        ]
        with source_errors(self._name):
            self._client.change_message_visibility_batch(QueueUrl=self._queue.url, Entries=entries)

    async def extend(self, records: Sequence[Record]) -> None:
        await self._by_page(self._extend, records)

    def _extend(self, records: Sequence[Record]) -> None:
        entries = [
            {
                "Id": str(n),
                "ReceiptHandle": held.receipt,
                "VisibilityTimeout": self._queue.visibility_s,
            }
            for n, held in enumerate(records)
        ]
        with source_errors(self._name):  # entries that fail are gone already: nobody needs to hide them
            self._client.change_message_visibility_batch(QueueUrl=self._queue.url, Entries=entries)

    async def settle(self, resolution: Resolution) -> None:
        """Delete what is Done or Discarded, tried again after faults.

        Raises:
            SourceUnavailable: some of it is not deleted, and comes again.
        """
        pairs = zip(resolution.batch.records, resolution.verdicts, strict=True)
        done = [item.receipt for item, verdict in pairs if not isinstance(verdict, Returned)]
        await self._by_page(self._delete, done)

    async def _by_page(self, work: Callable[[Sequence[T]], None], items: Sequence[T]) -> None:
        """Work on pages side by side; a page that fails does not stop the others."""
        if len(items) <= PAGE:
            if items:
                await self._settling.call(work, items)
            return
        try:
            async with asyncio.TaskGroup() as group:
                for first in range(0, len(items), PAGE):
                    group.create_task(self._settling.call(work, items[first : first + PAGE]))
        except* (SourceUnavailable, InvalidConfiguration) as failed:
            raise failed.exceptions[0] from None

    def _delete(self, receipts: Sequence[str]) -> None:
        left = receipts
        codes: set[str] = set()
        for wait_s in DELETE_WAITS_S:
            time.sleep(wait_s)
            entries = [{"Id": str(n), "ReceiptHandle": receipt} for n, receipt in enumerate(left)]
            with source_errors(self._name):
                answer = self._client.delete_message_batch(QueueUrl=self._queue.url, Entries=entries)
            failed = answer.get("Failed")
            if not failed:
                return
            stale = [entry for entry in failed if entry.get("SenderFault")]
            if stale:  # deleted before, or hidden no longer and read by another: no retry mends it
                logger.warning("messages no longer ours to delete", extra=self._about(records=len(stale)))
            left = [left[int(entry["Id"])] for entry in failed if not entry.get("SenderFault")]
            codes = {str(entry.get("Code")) for entry in failed}
            if not left:
                return
        raise SourceUnavailable(f"{self._name}: {len(left)} messages not deleted: {', '.join(sorted(codes))}")

    def _about(self, **fields: object) -> dict[str, object]:
        return {"queue": self._name, **fields}

    async def backlog(self) -> int | None:
        return await self._settling.call(self._waiting)

    def _waiting(self) -> int:
        name = "ApproximateNumberOfMessages"
        with source_errors(self._name):
            answer = self._client.get_queue_attributes(QueueUrl=self._queue.url, AttributeNames=[name])
        return int(answer["Attributes"][name])

    async def aclose(self) -> None:
        with self._lock:
            self._closed = True
        self._polling.close()
        self._settling.close()
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        with self._lock:
            if self._closed and not self._in_flight:
                self._client.close()
