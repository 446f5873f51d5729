"""Takes batches of a queue from invocation to settlement, and keeps their records hidden meanwhile."""

from __future__ import annotations

import logging
import math
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from msgspec import structs

from millstream.contract.clock import Clock
from millstream.contract.errors import InvalidConfiguration, Refused, SourceUnavailable
from millstream.contract.functions import (
    FunctionFailed,
    FunctionSpec,
    Outcome,
    Success,
    Throttled,
    TooLarge,
)
from millstream.contract.ports import (
    Destination,
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
    Rejected,
    Resolution,
    Returned,
    Verdict,
    resolve,
    resolve_all,
)
from millstream.mappings.answers import MalformedAnswers, plain
from millstream.mappings.decide import GiveUp, Return, Settle, Step, decide
from millstream.mappings.giving_up import Handover
from millstream.mappings.hiding import Hidden
from millstream.mappings.invocation_record import success_record
from millstream.mappings.queue_delivery import QueueFailureDelivery
from millstream.mappings.scaling import Scaler

logger = logging.getLogger(__name__)

THROTTLE_FIRST_S = 0.5
THROTTLE_MAX_S = 10.0
"""Waits between tries of a throttled batch: the first, doubled up to the longest."""

MARGIN_S = 1.0
"""What a batch is let go before its records become visible to others, or before the queue takes them back."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a mapping's records go."""

    mapping: str
    function: FunctionSpec
    policy: QueuePolicy
    on_success: Destination | None = None
    on_failure: Destination | None = None


@dataclass(frozen=True, slots=True)
class Chain:
    """Batches that go to the function one after the other."""

    batches: tuple[Batch, ...]
    failures: int = 0  # tries of its first batch, in a row, while its records were held


@dataclass(frozen=True, slots=True)
class Rest:
    """What is left of a chain, to be tried again in place, and when."""

    chain: Chain
    after_s: float


class Processor:
    """Invokes, decides, delivers what is given up, settles. One per mapping.

    Everything between `hidden.hold` and its resolution is kept hidden from other readers, except what is
    throttled: that goes back to the queue at its time, as on AWS.
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
        self._malformed = MalformedAnswers(route.mapping)
        self.hidden = Hidden(reader, route.mapping, clock)
        self._success: Handover | None = None
        if route.on_success is not None:
            self._success = Handover(route.mapping, route.on_success, observer)
        self._failure: QueueFailureDelivery | None = None
        if route.on_failure is not None:
            self._failure = QueueFailureDelivery(
                route.mapping, route.function, trigger, route.on_failure, observer, clock
            )

    async def process(self, chain: Chain) -> Rest | None:
        """Process batches one after the other; what a failed one blocks is returned unread.

        Returns what is to be tried again in place. None: all of it is settled.
        """
        todo, failures = deque(chain.batches), chain.failures
        blocked: set[str] = set()
        while todo:
            records = todo.popleft().records
            stuck = tuple(r for r in records if r.ordering_key in blocked)
            if stuck:
                await self.settle(resolve_all(Batch(stuck), Returned()))
            records = tuple(r for r in records if r.ordering_key not in blocked)
            if not records:
                continue
            batch = Batch(records)
            event = self._trigger.envelope(records)
            outcome = await self._invoke(batch, event)
            if isinstance(outcome, TooLarge) and len(records) > 1:
                middle = len(records) // 2
                todo.extendleft((Batch(records[middle:]), Batch(records[:middle])))
                continue
            verdicts = await self._verdicts(batch, event, outcome)
            pause_s = self._pause_s(failures, verdicts, records)
            held = () if pause_s is None else tuple(r for r in records if _returned(verdicts, r))
            await self._settle_all_but(held, records, verdicts)
            if pause_s is not None:
                again = tuple(structs.replace(r, delivery_count=r.delivery_count + 1) for r in held)
                return Rest(Chain((Batch(again), *todo), failures + 1), pause_s)
            failures = 0
            blocked |= {r.ordering_key for r in records if r.ordering_key and _returned(verdicts, r)}
        return None

    async def give_back(self, chain: Chain) -> None:
        """Leave to the queue what was to be tried again."""
        for batch in chain.batches:
            await self.settle(resolve_all(batch, Returned()))

    async def settle(self, resolution: Resolution) -> None:
        """Tell the queue; from here on it owns what was returned."""
        self.hidden.let_go(resolution.batch.records)
        try:
            await self._reader.settle(resolution)
        except (SourceUnavailable, Refused, InvalidConfiguration) as error:  # the polls find out what it is
            logger.warning("records not settled, they come again", extra=self._about(why=str(error)))
        self._observer.batch_resolved(self._route.mapping, resolution)

    async def _settle_all_but(
        self, held: tuple[Record, ...], records: tuple[Record, ...], verdicts: dict[str, Verdict]
    ) -> None:
        keep = {record.item_id for record in held}
        rest = tuple(record for record in records if record.item_id not in keep)
        if rest:
            await self.settle(resolve(Batch(rest), {r.item_id: verdicts[r.item_id] for r in rest}))

    def _pause_s(
        self, failures: int, verdicts: dict[str, Verdict], records: tuple[Record, ...]
    ) -> float | None:
        """How long what failed rests before it is tried again in place. None: nothing is to be."""
        policy = self._route.policy.in_place
        failed = [r.received_at for r in records if _returned(verdicts, r)]
        if policy is None or not failed:
            return None
        pause_s = float(min(policy.first_s * 2 ** min(failures, 32), policy.most_s))
        ends_at = self._clock.now() + pause_s + self._route.function.timeout_s + MARGIN_S
        return pause_s if ends_at <= min(failed) + policy.within_s else None

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
            with self.hidden.as_it_is(batch.records) as hidden_for_s:
                pause_s = max(wait_s, outcome.retry_after_s)
                if pause_s > min(hidden_for_s, self._held_for_s(batch.records)) - MARGIN_S:
                    return outcome
                await self._clock.sleep(pause_s)
            wait_s = min(wait_s * 2, THROTTLE_MAX_S)

    def _held_for_s(self, records: tuple[Record, ...]) -> float:
        """How long the queue may leave records with us before it takes them back, one more run counted."""
        policy = self._route.policy.in_place
        if policy is None:
            return math.inf
        received_at = min(record.received_at for record in records)
        return received_at + policy.within_s - self._route.function.timeout_s - self._clock.now()

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

    async def _verdicts(self, batch: Batch, event: bytes, outcome: Outcome) -> dict[str, Verdict]:
        match outcome:
            case Throttled():
                return _all(batch.records, Returned())
            case TooLarge():
                return await self._too_large(batch)
            case Success() | FunctionFailed():
                return await self._decided(batch, event, outcome)
            case _:
                assert_never(outcome)

    async def _too_large(self, batch: Batch) -> dict[str, Verdict]:
        """What becomes of a record that no event can hold.

        Source: AWS, "Using Lambda with Amazon MQ", records above 6 MB; tests/mappings/test_queue.py.
        """
        if not self._route.policy.drops_too_large:
            (record,) = batch.records
            about = self._about(partition=record.partition, record=record.item_id)
            logger.warning("record too large for any event, left to its queue", extra=about)
            return _all(batch.records, Returned())
        return await self._give_up(batch.records, Reason.TOO_LARGE, str(uuid.uuid4()), None)

    async def _decided(
        self, batch: Batch, event: bytes, outcome: Success | FunctionFailed
    ) -> dict[str, Verdict]:
        verdicts: dict[str, Verdict] = {}
        policy, answer = self._route.policy, outcome
        if policy.item_failures and isinstance(outcome, Success):
            answer = Success(await plain(outcome.payload), outcome.request_id)
        for step in decide(batch, answer, policy):
            verdicts |= await self._followed(step, outcome)
        if policy.item_failures and isinstance(answer, Success):
            failed = not any(isinstance(verdict, Done) for verdict in verdicts.values())
            self._malformed.look(batch, answer.payload, answer.request_id, failed=failed)
        if any(not isinstance(verdict, Done) for verdict in verdicts.values()):
            self._observer.batch_failed(self._route.mapping, len(batch.records))
        if isinstance(outcome, Success) and self._success is not None:
            await self._report_success(self._success, batch, event, outcome)
        return verdicts

    async def _followed(self, step: Step, outcome: Success | FunctionFailed) -> dict[str, Verdict]:
        match step:
            case Settle(records=records):
                return _all(records, Done())
            case Return(records=records):
                return _all(records, Returned())
            case GiveUp(records=records, reason=reason):
                error = "Unhandled" if isinstance(outcome, FunctionFailed) else None
                return await self._give_up(records, reason, outcome.request_id, error)
            case _:
                assert_never(step)

    async def _give_up(
        self, records: tuple[Record, ...], reason: Reason, request_id: str, function_error: str | None
    ) -> dict[str, Verdict]:
        """Deliver first; what a declared destination does not take goes back to the queue."""
        if self._failure is not None:
            handed = await self._failure.deliver(records, reason, request_id, function_error)
            verdicts = _all(handed.left, Returned())
            if handed.receipt is not None:
                self._observer.record_discarded(self._route.mapping, handed.taken, reason)
                verdicts |= _all(handed.taken, Discarded(reason, handed.receipt))
            return verdicts
        if self._route.policy.rejects:
            self._observer.records_rejected(self._route.mapping, records, reason)
            return _all(records, Rejected(reason))
        self._observer.records_dropped(self._route.mapping, records, reason)
        return _all(records, Discarded(reason, DestinationReceipt(None)))

    async def _report_success(self, handover: Handover, batch: Batch, event: bytes, outcome: Success) -> None:
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
        await handover.send(record)  # as on AWS, one that is not taken is dropped

    def _about(self, **fields: object) -> dict[str, object]:
        return {"mapping": self._route.mapping, "function": self._route.function.name, **fields}


def _all(records: Sequence[Record], verdict: Verdict) -> dict[str, Verdict]:
    return dict.fromkeys((record.item_id for record in records), verdict)


def _returned(verdicts: dict[str, Verdict], record: Record) -> bool:
    return isinstance(verdicts[record.item_id], Returned)
