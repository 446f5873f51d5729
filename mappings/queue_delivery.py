"""Hands what a queue's mapping gives up to its on-failure destination."""

from __future__ import annotations

from millstream.contract.clock import Clock
from millstream.contract.functions import FunctionSpec
from millstream.contract.ports import Destination, InvocationRecord, Observer, QueueTrigger
from millstream.contract.records import Reason, Record
from millstream.mappings.giving_up import Form, Handed, Handover, Step, least_details
from millstream.mappings.invocation_record import failure_record

FORMS = (Step(Form.WHOLE, halves=True), Step(Form.BARE), Step(Form.LEAST))
"""Nobody but the document holds a message once it is off its queue, so the event is left out last."""


class QueueFailureDelivery:
    """Delivers for one mapping to one destination."""

    def __init__(
        self,
        mapping: str,
        function: FunctionSpec,
        trigger: QueueTrigger,
        destination: Destination,
        observer: Observer,
        clock: Clock,
    ) -> None:
        self._mapping = mapping
        self._function = function
        self._trigger = trigger
        self._clock = clock
        self._handover = Handover(mapping, destination, observer)

    async def deliver(
        self, records: tuple[Record, ...], reason: Reason, request_id: str, function_error: str | None
    ) -> Handed:
        """One document for all records; for parts of them where the destination takes no such large one."""

        def make(some: tuple[Record, ...], form: Form, omitted: str | None) -> InvocationRecord:
            return failure_record(
                self._function,
                mapping_id=self._mapping,
                partition=some[0].partition,
                reason=reason,
                request_id=request_id,
                invoke_count=max(record.delivery_count for record in some),
                function_error=function_error,
                details=least_details(some) if form is Form.LEAST else self._trigger.failure_details(some),
                event=self._trigger.envelope(some) if form is Form.WHOLE else None,
                omitted=omitted,
                now=self._clock.now(),
            )

        return await self._handover.hand_over(records, FORMS, make)
