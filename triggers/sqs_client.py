"""Calls one SQS queue: what each call may bring or take, and which faults are whose. Blocks."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import ClientError

from millstream.aws.source_errors import code_of
from millstream.aws.source_errors import source_errors as errors_of
from millstream.contract.clock import Clock
from millstream.contract.errors import Refused, SourceUnavailable
from millstream.contract.seldom import Seldom
from millstream.triggers.sqs_attempts import Attempts
from millstream.triggers.sqs_messages import Queue

logger = logging.getLogger(__name__)

PAGE = 10
"""Most messages of one call. Source: AWS, ReceiveMessage and DeleteMessageBatch."""

LONGEST_POLL_S = 20

DELETE_WAITS_S = (0.0, 0.1, 0.5)
"""Before each try to delete what the service, itself at fault, did not delete."""

MISSING = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})

REFUSED = frozenset(
    {
        "InvalidAddress",
        "InvalidSecurity",
        "KMS.AccessDeniedException",
        "KMS.DisabledException",
        "KMS.InvalidKeyUsageException",
        "KMS.InvalidStateException",
        "KMS.NotFoundException",
        "KMS.OptInRequired",
        "KmsAccessDenied",
        "KmsDisabled",
        "KmsInvalidKeyUsage",
        "KmsInvalidState",
        "KmsNotFound",
        "KmsOptInRequired",
    }
)
"""Errors of SQS that stay until somebody mends something. Source: the service model of SQS."""


@contextmanager
def source_errors(queue: str) -> Iterator[None]:
    """Turns botocore's faults into ours."""
    with errors_of("queue", queue, REFUSED):
        try:
            yield
        except ClientError as error:
            if code_of(error) in MISSING:
                raise Refused(f"no queue {queue!r}") from error
            raise


class SqsCalls:
    """The calls of one mapping. Owns the client. For any thread."""

    def __init__(self, client: Any, queue: Queue, clock: Clock) -> None:
        self._client = client
        self._queue = queue
        self._name = queue.name
        self._clock = clock
        self._attempts = Attempts()
        self._seldom = Seldom(clock.monotonic)

    def receive(self, limit: int, wait_s: float) -> Sequence[dict[str, Any]]:
        """The messages that one call brings.

        A call of a FIFO queue whose answer got lost is made again by the next one.
        """
        attempt = self._attempts.begin(limit, self._clock.monotonic()) if self._queue.fifo else None
        named = {} if attempt is None else {"ReceiveRequestAttemptId": attempt.id}
        try:
            with source_errors(self._name):
                answer = self._client.receive_message(
                    QueueUrl=self._queue.url,
                    MaxNumberOfMessages=limit if attempt is None else attempt.limit,
                    WaitTimeSeconds=min(math.ceil(wait_s), LONGEST_POLL_S),
                    VisibilityTimeout=self._queue.visibility_s,
                    MessageAttributeNames=["All"],
                    MessageSystemAttributeNames=["All"],
                    **named,
                )
                return [message for message in answer.get("Messages") or () if self._is_whole(message)]
        except SourceUnavailable:
            if attempt is not None:
                self._attempts.lost(attempt)
            raise

    def _is_whole(self, message: dict[str, Any]) -> bool:
        """False for what can be neither named nor settled; it comes again, until its queue gives it up."""
        if isinstance(message.get("MessageId"), str) and isinstance(message.get("ReceiptHandle"), str):
            return True
        if self._seldom.due("message"):
            logger.warning(
                "message without id or receipt handle, left to its queue", extra={"queue": self._name}
            )
        return False

    def change(self, page: Sequence[tuple[str, int]]) -> None:
        """Hide messages, by their receipts, for so many seconds from now on.

        Those that are gone already are passed over.

        Raises:
            SourceUnavailable: the service could not hide some.
        """
        entries = [
            {"Id": str(n), "ReceiptHandle": receipt, "VisibilityTimeout": for_s}
            for n, (receipt, for_s) in enumerate(page)
        ]
        with source_errors(self._name):
            answer = self._client.change_message_visibility_batch(QueueUrl=self._queue.url, Entries=entries)
            failed = [entry for entry in (answer or {}).get("Failed") or () if not entry.get("SenderFault")]
        if failed:
            raise SourceUnavailable(f"{self._name}: {len(failed)} messages not hidden")

    def delete(self, receipts: Sequence[str]) -> None:
        """Delete messages, those at which the service itself was at fault again and again.

        Raises:
            SourceUnavailable: some are not deleted.
        """
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
                left = [left[int(entry["Id"])] for entry in failed if not entry.get("SenderFault")]
                codes = {str(entry.get("Code")) for entry in failed}
            if stale:  # deleted before, or hidden no longer and read by another: no retry mends it
                logger.warning(
                    "messages no longer ours to delete", extra={"queue": self._name, "records": len(stale)}
                )
            if not left:
                return
        raise SourceUnavailable(f"{self._name}: {len(left)} messages not deleted: {', '.join(sorted(codes))}")

    def waiting(self) -> int:
        """About how many messages wait."""
        name = "ApproximateNumberOfMessages"
        with source_errors(self._name):
            answer = self._client.get_queue_attributes(QueueUrl=self._queue.url, AttributeNames=[name])
            return int(answer["Attributes"][name])

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()
