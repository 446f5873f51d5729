"""Hands what a stream's mapping gives up to its on-failure destination, in the form that it takes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence

from millstream.contract.clock import Clock
from millstream.contract.functions import FunctionSpec
from millstream.contract.ports import Destination, InvocationRecord, Observer, Payload
from millstream.contract.records import DestinationReceipt, Record
from millstream.contract.stream_trigger import RecordFailure, StreamTrigger, TellsSingly
from millstream.mappings.giving_up import Form, Handed, Handover, Step, least_details
from millstream.mappings.invocation_record import failure_record
from millstream.mappings.stream_decide import GiveUp

AT_ONCE = 100
"""Documents of one batch that are under way at most; they are made as they are sent."""

FORMS = {
    Payload.EVENT: (Step(Form.WHOLE), Step(Form.BARE, halves=True), Step(Form.LEAST)),
    Payload.NONE: (Step(Form.BARE, halves=True), Step(Form.LEAST)),
    Payload.RECORD: (Step(Form.WHOLE), Step(Form.BARE), Step(Form.LEAST)),
}
"""The stream still has the records for a while, so one document without the event is better than many."""


class FailureDelivery:
    """Delivers for one mapping to one destination."""

    def __init__(
        self,
        mapping: str,
        function: FunctionSpec,
        trigger: StreamTrigger,
        destination: Destination,
        observer: Observer,
        clock: Clock,
    ) -> None:
        self._mapping = mapping
        self._function = function
        self._trigger = trigger
        self._destination = destination
        self._clock = clock
        self._handover = Handover(mapping, destination, observer)

    async def deliver(self, step: GiveUp) -> Handed:
        """One document for all records, or one for each, in order; asks no more once nothing is taken."""
        payload = self._destination.payload
        if payload is Payload.RECORD and isinstance(self._trigger, TellsSingly):
            return await self._deliver_each(step, self._trigger)
        # A destination that wants a document for each record gets one without the event from other sources.
        forms = FORMS[Payload.NONE if payload is Payload.RECORD else payload]

        def make(some: tuple[Record, ...], form: Form, omitted: str | None) -> InvocationRecord:
            details = least_details(some) if form is Form.LEAST else self._trigger.failure_details(some)
            event = self._trigger.envelope(some) if form is Form.WHOLE else None
            told = RecordFailure(details, some[0].partition.encode())
            return self._document(step, some[0], told, event, omitted)

        return await self._handover.hand_over(step.records, forms, make)

    async def _deliver_each(self, step: GiveUp, trigger: TellsSingly) -> Handed:
        taken: list[Record] = []
        left: list[Record] = []
        last: DestinationReceipt | None = None
        for first in range(0, len(step.records), AT_ONCE):
            some = step.records[first : first + AT_ONCE]
            handed = await self._hand_over_each(step, some, trigger)
            for each in handed:
                taken += each.taken
                left += each.left
                last = each.receipt or last
            if not any(each.taken for each in handed):
                left += step.records[first + AT_ONCE :]
                break
        return Handed(tuple(taken), last, tuple(left))

    async def _hand_over_each(
        self, step: GiveUp, records: Sequence[Record], trigger: TellsSingly
    ) -> list[Handed]:
        def make(some: tuple[Record, ...], form: Form, omitted: str | None) -> InvocationRecord:
            (record,) = some
            event = self._trigger.envelope(some) if form is Form.WHOLE else None
            if form is Form.LEAST:
                told = RecordFailure(least_details(some), None)
            else:
                told = trigger.record_failure(record)
            return self._document(step, record, told, event, omitted, single=True)

        forms = FORMS[Payload.RECORD]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._handover.hand_over((record,), forms, make)) for record in records
            ]
        return [task.result() for task in tasks]

    def _document(
        self,
        step: GiveUp,
        first: Record,
        told: RecordFailure,
        event: bytes | None,
        omitted: str | None,
        *,
        single: bool = False,
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
            omitted=omitted,
            now=self._clock.now(),
            single=single,
            key=told.key,
        )
