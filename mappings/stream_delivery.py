"""Hands what a stream's mapping gives up to its on-failure destination, in the form that it takes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from millstream.contract.clock import Clock
from millstream.contract.errors import DestinationUnavailable
from millstream.contract.functions import FunctionSpec
from millstream.contract.ports import Destination, InvocationRecord, Observer, Payload
from millstream.contract.records import DestinationReceipt, Record
from millstream.contract.stream_trigger import RecordFailure, StreamTrigger, TellsSingly
from millstream.mappings.invocation_record import failure_record
from millstream.mappings.stream_decide import GiveUp

AT_ONCE = 100
"""Documents of one batch that are under way at most; they are made as they are sent."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """What became of records that were given up."""

    taken: tuple[Record, ...]
    receipt: DestinationReceipt | None  # of those that were taken
    left: tuple[Record, ...] = ()


class FailureDelivery:
    """Delivers for one mapping."""

    def __init__(
        self, mapping: str, function: FunctionSpec, trigger: StreamTrigger, observer: Observer, clock: Clock
    ) -> None:
        self._mapping = mapping
        self._function = function
        self._trigger = trigger
        self._observer = observer
        self._clock = clock

    async def deliver(self, step: GiveUp, destination: Destination) -> Delivered:
        """One document for all records, or one for each, in order; asks no more once nothing is taken."""
        if destination.payload is not Payload.RECORD or not isinstance(self._trigger, TellsSingly):
            receipt = await self.send(self._of_all(step, destination), destination)
            return Delivered((), None, step.records) if receipt is None else Delivered(step.records, receipt)
        taken: list[Record] = []
        left: list[Record] = []
        last: DestinationReceipt | None = None
        for first in range(0, len(step.records), AT_ONCE):
            some = step.records[first : first + AT_ONCE]
            receipts = await self._send_each(step, some, self._trigger, destination)
            for record, receipt in zip(some, receipts, strict=True):
                (left if receipt is None else taken).append(record)
                last = receipt or last
            if not any(receipts):
                left += step.records[first + AT_ONCE :]
                break
        return Delivered(tuple(taken), last, tuple(left))

    async def send(self, document: InvocationRecord, destination: Destination) -> DestinationReceipt | None:
        """The receipt of one document. None: it was not taken, which the observer is told."""
        try:
            return await destination.deliver(document)
        except DestinationUnavailable as unavailable:
            self._observer.delivery_failed(self._mapping, destination.name, str(unavailable))
            return None

    async def _send_each(
        self, step: GiveUp, records: Sequence[Record], trigger: TellsSingly, destination: Destination
    ) -> list[DestinationReceipt | None]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self.send(self._of_one(step, record, trigger, destination), destination))
                for record in records
            ]
        return [task.result() for task in tasks]

    def _of_all(self, step: GiveUp, destination: Destination) -> InvocationRecord:
        records = step.records
        told = RecordFailure(self._trigger.failure_details(records), records[0].partition.encode())
        if destination.payload is not Payload.EVENT:
            return self._document(step, records[0], told, None)
        whole = self._document(step, records[0], told, self._trigger.envelope(records))
        return whole if _fits(whole, destination) else self._document(step, records[0], told, None)

    def _of_one(
        self, step: GiveUp, record: Record, trigger: TellsSingly, destination: Destination
    ) -> InvocationRecord:
        told, event = trigger.record_failure(record), self._trigger.envelope([record])
        whole = self._document(step, record, told, event, single=True)
        return whole if _fits(whole, destination) else self._document(step, record, told, None, single=True)

    def _document(
        self, step: GiveUp, first: Record, told: RecordFailure, event: bytes | None, *, single: bool = False
    ) -> InvocationRecord:
        return failure_record(
            self._function,
            mapping_id=self._mapping,
            partition=first.partition,
            reason=step.reason,
            request_id=step.request_id or str(uuid.uuid4()),
            invoke_count=step.invoke_count,
            function_error=step.function_error,
            details=told.details,
            event=event,
            now=self._clock.now(),
            single=single,
            key=told.key,
        )


def _fits(document: InvocationRecord, destination: Destination) -> bool:
    limit = destination.limit_bytes
    return limit is None or document.size_bytes <= limit
