"""Takes batches of a queue from invocation to settlement, and keeps their records hidden meanwhile."""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import assert_never

from millstream.contract.clock import Clock
from millstream.contract.errors import DestinationUnavailable, InvalidConfiguration, SourceUnavailable
from millstream.contract.functions import (
    MAX_PAYLOAD_BYTES,
    FunctionFailed,
    FunctionSpec,
    Outcome,
    Success,
    Throttled,
    TooLarge,
)
from millstream.contract.ports import (
    Destination,
    InvocationRecord,
    Invoker,
    Observer,
    QueuePolicy,
    QueueReader,
    QueueTrigger,
)
from millstream.contract.records import (
    Batch,
    DestinationReceipt,
    Discarded,
    Done,
    Reason,
    Record,
    Resolution,
    Returned,
    Verdict,
    resolve,
    resolve_all,
)
from millstream.mappings.decide import GiveUp, Return, Settle, decide
from millstream.mappings.invocation_record import failure_record, success_record
from millstream.mappings.scaling import Scaler

logger = logging.getLogger(__name__)

THROTTLE_FIRST_S = 0.5
THROTTLE_MAX_S = 10.0
"""Waits between tries of a throttled batch: the first, doubled up to the longest."""

LEASE_MARGIN_S = 1.0
"""A throttled batch is let go this long before its records become visible to others."""

BEATS_PER_LEASE = 4
"""Looks at what is held, per visibility timeout; what is half through its timeout is extended."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a mapping's records go."""

    mapping: str
    function: FunctionSpec
    policy: QueuePolicy
    on_success: Destination | None = None
    on_failure: Destination | None = None


class Processor:
    """Invokes, decides, delivers what is given up, settles. One per mapping.

    Everything between `hold` and its resolution is kept hidden from other readers by a heartbeat,
    except what is throttled: that goes back to the queue at its time, as on AWS.
    """

    def __init__(
        self,
        route: Route,
        trigger: QueueTrigger,
        reader: QueueReader,
        invoker: Invoker,
        scaler: Scaler,
        observer: Observer,
        clock: Clock,
    ) -> None:
        self._route = route
        self._trigger = trigger
        self._reader = reader
        self._invoker = invoker
        self._scaler = scaler
        self._observer = observer
        self._clock = clock
        self._held: dict[str, tuple[Record, float]] = {}  # by item_id: hidden since (monotonic)

    def hold(self, records: Sequence[Record]) -> None:
        """Keep records hidden from now until they are settled."""
        now = self._clock.monotonic()
        for record in records:
            self._held[record.item_id] = (record, now)

    async def beat(self) -> None:
        """Extend what is held, for ever; cancelled by whoever runs it."""
        lease_s = self._reader.lease_s
        while lease_s is not None:
            await self._clock.sleep(lease_s / BEATS_PER_LEASE)
            now = self._clock.monotonic()
            due = [record for record, since in self._held.values() if now - since >= lease_s / 2]
            if not due:
                continue
            try:
                await self._reader.extend(due)
            except (SourceUnavailable, InvalidConfiguration):
                logger.warning("visibility not extended", extra=self._about(records=len(due)))
                continue
            for record in due:
                if record.item_id in self._held:
                    self._held[record.item_id] = (record, now)

    async def process(self, chain: Sequence[Batch]) -> None:
        """Process batches one after the other; what a failed one blocks is returned unread."""
        blocked: set[str] = set()
        for batch in chain:
            stuck = tuple(r for r in batch.records if r.ordering_key in blocked)
            if stuck:
                await self.settle(resolve_all(Batch(stuck), Returned()))
            rest = tuple(r for r in batch.records if r.ordering_key not in blocked)
            if not rest:
                continue
            resolution = await self._process(Batch(rest))
            for record, verdict in zip(resolution.batch.records, resolution.verdicts, strict=True):
                if isinstance(verdict, Returned) and record.ordering_key is not None:
                    blocked.add(record.ordering_key)

    async def settle(self, resolution: Resolution) -> None:
        """Tell the queue; from here on it owns what was returned."""
        for record in resolution.batch.records:
            self._held.pop(record.item_id, None)
        try:
            await self._reader.settle(resolution)
        except (SourceUnavailable, InvalidConfiguration) as error:  # the polls find out what it means
            logger.warning("records not settled, they come again", extra=self._about(why=str(error)))
        self._observer.batch_resolved(self._route.mapping, resolution)

    async def _process(self, batch: Batch) -> Resolution:
        event = self._trigger.envelope(batch.records)
        if len(event) > MAX_PAYLOAD_BYTES and len(batch.records) == 1 and self._route.policy.drops_too_large:
            resolution = await self._drop(batch)
        else:
            resolution = await self._attempt(batch, event)
        await self.settle(resolution)
        return resolution

    async def _attempt(self, batch: Batch, event: bytes) -> Resolution:
        outcome = await self._invoke(batch, event)
        match outcome:
            case Throttled() | TooLarge():
                return resolve_all(batch, Returned())
            case Success() | FunctionFailed():
                return await self._resolve(batch, event, outcome)
            case _:
                assert_never(outcome)

    async def _drop(self, batch: Batch) -> Resolution:
        """Give up a record that no event can hold; kept only while a declared destination does not take it.

        Source: AWS, "Using Lambda with Amazon MQ", records above 6 MB; tests/mappings/test_queue.py.
        """
        reason = Reason.TOO_LARGE
        if self._route.on_failure is not None:
            return resolve(batch, await self._give_up(batch.records, reason, str(uuid.uuid4()), None))
        self._observer.records_dropped(self._route.mapping, batch.records, reason)
        return resolve_all(batch, Discarded(reason, DestinationReceipt(None)))

    async def _invoke(self, batch: Batch, event: bytes) -> Outcome:
        """Invoke until it is not throttled, or until the records' own time is up."""
        wait_s = THROTTLE_FIRST_S
        while True:
            started_at = self._clock.monotonic()
            outcome = await self._invoker.invoke(self._route.function.name, event)
            duration_s = self._clock.monotonic() - started_at
            self._observer.invoked(self._route.mapping, len(batch.records), outcome, duration_s)
            self._scale(outcome)
            if not isinstance(outcome, Throttled):
                return outcome
            resting = {r.item_id: self._held.pop(r.item_id) for r in batch.records if r.item_id in self._held}
            pause_s = max(wait_s, outcome.retry_after_s)
            if self._clock.monotonic() + pause_s > self._hidden_until(resting.values()):
                return outcome
            await self._clock.sleep(pause_s)
            self._held.update(resting)
            wait_s = min(wait_s * 2, THROTTLE_MAX_S)

    def _hidden_until(self, held: Iterable[tuple[Record, float]]) -> float:
        lease_s = self._reader.lease_s
        if lease_s is None:
            return math.inf
        return min((since for _, since in held), default=-math.inf) + lease_s - LEASE_MARGIN_S

    def _scale(self, outcome: Outcome) -> None:
        match outcome:
            case Success():
                self._scaler.succeeded()
            case FunctionFailed() if self._route.policy.item_failures:
                pass  # AWS does not scale down where the function reports its failures
            case FunctionFailed() | Throttled():
                self._scaler.failed()
            case TooLarge():
                pass
            case _:
                assert_never(outcome)

    async def _resolve(self, batch: Batch, event: bytes, outcome: Success | FunctionFailed) -> Resolution:
        verdicts: dict[str, Verdict] = {}
        for step in decide(batch, outcome, self._route.policy):
            match step:
                case Settle(records=records):
                    verdict: Verdict = Done()
                case Return(records=records):
                    verdict = Returned()
                case GiveUp(records=records, reason=reason):
                    error = "Unhandled" if isinstance(outcome, FunctionFailed) else None
                    verdicts |= await self._give_up(records, reason, outcome.request_id, error)
                    continue
                case _:
                    assert_never(step)
            verdicts |= dict.fromkeys((record.item_id for record in records), verdict)
        if any(not isinstance(verdict, Done) for verdict in verdicts.values()):
            self._observer.batch_failed(self._route.mapping, len(batch.records))
        if isinstance(outcome, Success) and self._route.on_success is not None:
            await self._report_success(self._route.on_success, batch, event, outcome)
        return resolve(batch, verdicts)

    async def _give_up(
        self, records: tuple[Record, ...], reason: Reason, request_id: str, function_error: str | None
    ) -> dict[str, Verdict]:
        """Deliver first; what no destination holds goes back to the queue. Halves what is too large."""
        destination = self._route.on_failure
        verdict: Verdict = Returned()
        if destination is not None:
            record = failure_record(
                self._route.function,
                mapping_id=self._route.mapping,
                partition=records[0].partition,
                reason=reason,
                request_id=request_id,
                invoke_count=max(record.delivery_count for record in records),
                function_error=function_error,
                details=self._trigger.failure_details(records),
                event=self._trigger.envelope(records),
                now=self._clock.now(),
            )
            limit = destination.limit_bytes
            if limit is not None and record.size_bytes > limit and len(records) > 1:
                middle = len(records) // 2
                first = await self._give_up(records[:middle], reason, request_id, function_error)
                return first | await self._give_up(records[middle:], reason, request_id, function_error)
            if limit is not None and record.size_bytes > limit:
                fields = self._about(destination=destination.name, bytes=record.size_bytes, limit=limit)
                logger.error("failure record too large for its destination, kept on the queue", extra=fields)
                return dict.fromkeys((record.item_id for record in records), verdict)
            receipt = await self._deliver(destination, record)
            if receipt is not None:
                self._observer.record_discarded(self._route.mapping, records, reason)
                verdict = Discarded(reason, receipt)
        return dict.fromkeys((record.item_id for record in records), verdict)

    async def _report_success(
        self, destination: Destination, batch: Batch, event: bytes, outcome: Success
    ) -> None:
        record = success_record(
            self._route.function,
            mapping_id=self._route.mapping,
            partition=batch.records[0].partition,
            request_id=outcome.request_id,
            invoke_count=max(record.delivery_count for record in batch.records),
            event=event,
            payload=outcome.payload,
            now=self._clock.now(),
        )
        await self._deliver(destination, record)  # as on AWS, one that is not taken is dropped

    async def _deliver(self, destination: Destination, record: InvocationRecord) -> DestinationReceipt | None:
        try:
            return await destination.deliver(record)
        except DestinationUnavailable as unavailable:
            self._observer.delivery_failed(self._route.mapping, destination.name, str(unavailable))
            return None

    def _about(self, **fields: object) -> dict[str, object]:
        return {"mapping": self._route.mapping, "function": self._route.function.name, **fields}
