"""Takes batches of one partition from invocation to resolution. Its lanes share it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias, assert_never

from millstream.contract.clock import Clock
from millstream.contract.functions import (
    FunctionFailed,
    FunctionSpec,
    Outcome,
    Success,
    Throttled,
    TooLarge,
)
from millstream.contract.groups import Outputs
from millstream.contract.ports import Destination, Invoker, Observer
from millstream.contract.records import (
    Batch,
    DestinationReceipt,
    Discarded,
    Done,
    Reason,
    Record,
    Resolution,
    resolve_all,
)
from millstream.contract.stream_trigger import StreamTrigger
from millstream.contract.streams import StreamPolicy
from millstream.mappings.answers import MalformedAnswers, plain, window_state
from millstream.mappings.giving_up import Handover
from millstream.mappings.invocation_record import success_record
from millstream.mappings.stream_decide import (
    Attempt,
    GiveUp,
    Retry,
    Settle,
    Step,
    decide,
    delay_s,
    drop_expired,
    drop_refused,
)
from millstream.mappings.stream_delivery import FailureDelivery
from millstream.mappings.windows import EMPTY_STATE, TumblingWindows

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StreamRoute:
    """Where a mapping's records go."""

    mapping: str
    function: FunctionSpec
    policy: StreamPolicy
    on_success: Destination | None = None
    on_failure: Destination | None = None
    outputs: Outputs | None = None


@dataclass(frozen=True, slots=True)
class Deliver:
    """A give-up that no destination has taken yet, where one must."""

    step: GiveUp
    after_s: float


Next: TypeAlias = Retry | Deliver
"""What is left to do for records that are not resolved."""


class StreamProcessor:
    """Invokes, decides, delivers what is given up, and reports each resolution to `resolved`."""

    def __init__(
        self,
        route: StreamRoute,
        trigger: StreamTrigger,
        invoker: Invoker,
        observer: Observer,
        clock: Clock,
        resolved: Callable[[Resolution], None],
    ) -> None:
        self._route = route
        self._trigger = trigger
        self._invoker = invoker
        self._observer = observer
        self._clock = clock
        self._resolved = resolved
        self._malformed = MalformedAnswers(route.mapping, route.policy.item_id)
        self._success = _handover(route, route.on_success, observer)
        self._delivery: FailureDelivery | None = None
        if route.on_failure is not None:
            self._delivery = FailureDelivery(
                route.mapping, route.function, trigger, route.on_failure, observer, clock
            )

    async def process(self, todo: Next, windows: TumblingWindows | None = None) -> list[Next]:
        """Do one thing; what it leaves to do, in record order. `windows` are the partition's, if any."""
        if isinstance(todo, Deliver):
            return await self._give_up(todo.step)
        refused, attempt = drop_refused(todo.attempt)
        left = [after for step in refused for after in await self._give_up(step)]
        if left or attempt is None:
            return left if attempt is None else [*left, Retry(attempt, 0.0)]
        expired, attempt = drop_expired(attempt, self._clock.now(), self._route.policy)
        if expired is not None:
            left = await self._give_up(expired)
            if left:
                return left if attempt is None else [*left, Retry(attempt, 0.0)]
        if attempt is None:
            return []
        event = self._trigger.envelope(attempt.batch.records)
        outcome = await self._invoke(attempt.batch, event if windows is None else windows.wrap(event))
        single = len(attempt.batch.records) == 1
        if windows is not None and isinstance(outcome, TooLarge) and single and windows.crowd_out():
            return [Retry(attempt, 0.0)]  # it may fit beside the empty state of the next window
        steps = await self._decided(attempt, outcome)
        self._tell_failure(len(attempt.batch.records), outcome, steps)
        if windows is not None and isinstance(outcome, Success) and isinstance(steps[0], Settle):
            windows.state = window_state(await plain(outcome.payload)) or windows.state
        return await self._follow(steps, outcome)

    async def _decided(self, attempt: Attempt, outcome: Outcome) -> list[Step]:
        policy, answer = self._route.policy, outcome
        reads = policy.item_failures or policy.tumbling_window_s > 0
        if reads and isinstance(outcome, Success):
            answer = Success(await plain(outcome.payload), outcome.request_id)
        steps = decide(attempt, answer, policy)
        if policy.item_failures and isinstance(answer, Success):
            failed = not isinstance(steps[0], Settle)
            self._malformed.look(attempt.batch, answer.payload, answer.request_id, failed=failed)
        return steps

    async def finish_window(self, windows: TumblingWindows) -> bool:
        """The final call of a window; True once the function has taken it."""
        event = windows.wrap(self._trigger.envelope(()), final=True)
        started_at = self._clock.monotonic()
        outcome = await self._invoker.invoke(self._route.function.name, event)
        duration_s = self._clock.monotonic() - started_at
        self._observer.invoked(self._route.mapping, 0, outcome, duration_s)
        if isinstance(outcome, TooLarge) and windows.state != EMPTY_STATE:
            extra = {"mapping": self._route.mapping, "bytes": len(windows.state)}
            logger.warning("window's state too large for its final call, which goes without it", extra=extra)
            windows.state = EMPTY_STATE
            return await self.finish_window(windows)
        return isinstance(outcome, Success)

    async def _invoke(self, batch: Batch, event: bytes) -> Outcome:
        started_at = self._clock.monotonic()
        newest = batch.records[-1].arrived_at
        self._observer.iterator_age(self._route.mapping, max(self._clock.now() - newest, 0.0))
        outcome = await self._invoker.invoke(self._route.function.name, event)
        duration_s = self._clock.monotonic() - started_at
        self._observer.invoked(self._route.mapping, len(batch.records), outcome, duration_s)
        if self._route.outputs is not None and isinstance(outcome, Success):
            return await self._held(self._route.outputs, batch, outcome)
        return outcome

    async def _held(self, outputs: Outputs, batch: Batch, answer: Success) -> Outcome:
        """An answer that cannot be published is one of a function that failed."""
        wrong = await outputs.take(batch.records, answer)
        if wrong is None:
            return answer
        logger.warning("answer cannot be published", extra={"mapping": self._route.mapping, "why": wrong})
        return FunctionFailed("Runtime.InvalidOutput", wrong, answer.payload, answer.request_id)

    def _tell_failure(self, count: int, outcome: Outcome, steps: list[Step]) -> None:
        settled = len(steps) == 1 and isinstance(steps[0], Settle)
        if not settled and not isinstance(outcome, Throttled | TooLarge):
            self._observer.batch_failed(self._route.mapping, count)

    async def _follow(self, steps: list[Step], outcome: Outcome) -> list[Next]:
        left: list[Next] = []
        for step in steps:
            match step:
                case Settle(records=records):
                    if isinstance(outcome, Success) and self._success is not None:
                        await self._report_success(self._success, records, outcome)
                    self._resolved(resolve_all(Batch(records), Done()))
                case Retry():
                    left.append(step)
                case GiveUp():
                    left += await self._give_up(step)
                case _:
                    assert_never(step)
        return left

    async def _give_up(self, step: GiveUp) -> list[Next]:
        """Deliver, then resolve. As on AWS, what the destination does not take is dropped, unless it must."""
        left = step.records
        if self._delivery is not None:
            handed = await self._delivery.deliver(step)
            left = handed.left
            if handed.receipt is not None:
                self._discard(handed.taken, step.reason, handed.receipt)
            if left and self._route.policy.on_failure_required:
                waits = step.waits + 1
                return [Deliver(replace(step, records=left, waits=waits), delay_s(waits))]
        if left:
            self._observer.records_dropped(self._route.mapping, left, step.reason)
            self._discard(left, step.reason, DestinationReceipt(accepted_by=None))
        return []

    def _discard(self, records: tuple[Record, ...], reason: Reason, receipt: DestinationReceipt) -> None:
        self._observer.record_discarded(self._route.mapping, records, reason)
        self._resolved(resolve_all(Batch(records), Discarded(reason, receipt)))

    async def _report_success(
        self, handover: Handover, records: tuple[Record, ...], outcome: Success
    ) -> None:
        record = success_record(
            self._route.function,
            mapping_id=self._route.mapping,
            partition=records[0].partition,
            request_id=outcome.request_id,
            event=self._trigger.envelope(records),
            payload=outcome.payload,
            now=self._clock.now(),
            key=records[0].partition.encode(),
        )
        await handover.send(record)


def _handover(route: StreamRoute, destination: Destination | None, observer: Observer) -> Handover | None:
    return None if destination is None else Handover(route.mapping, destination, observer)
