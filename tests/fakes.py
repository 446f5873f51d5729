"""Ports in memory, for the tests of the core: a queue, a function, a destination, an observer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import msgspec

from millstream.contract.clock import Clock
from millstream.contract.errors import DestinationUnavailable
from millstream.contract.functions import (
    MAX_PAYLOAD_BYTES,
    FunctionFailed,
    FunctionSpec,
    Outcome,
    Success,
    TooLarge,
)
from millstream.contract.ports import (
    BatchLimits,
    Capabilities,
    DataFormat,
    FilterRules,
    Host,
    InvocationRecord,
    JsonObject,
    Mismatch,
    Payload,
    QueuePolicy,
)
from millstream.contract.records import (
    DestinationReceipt,
    Position,
    Reason,
    Record,
    Resolution,
    Returned,
)
from millstream.contract.state import State

FUNCTION = FunctionSpec(
    name="f", arn="arn:aws:lambda:us-east-1:000000000000:function:f", handler="f.handle", code=Path("/none")
)

SUCCESS = Success(b"null", "request-1")
FAILURE = FunctionFailed("Exception", "no", b'{"errorType":"Exception"}', "request-1")


def record(number: int, *, key: str | None = None, count: int = 1, size: int = 0, at: float = 0.0) -> Record:
    """A record whose event is `{"n": number, "pad": …}`."""
    event = msgspec.json.encode({"n": number, "pad": "x" * size})
    return Record(
        partition="q",
        position=Position(str(number)),
        item_id=str(number),
        event=event,
        arrived_at=at,
        received_at=at,
        delivery_count=count,
        ordering_key=key,
        receipt=f"r{number}-{count}",
    )


@dataclass
class FakeQueue:
    """A queue in memory: hides what it hands out, shows it again when its time is up."""

    clock: Clock
    lease_s: float | None = 30.0
    visible: deque[Record] = field(default_factory=deque)
    hidden: dict[str, tuple[Record, float]] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    receives: list[int] = field(default_factory=list)
    fault: Exception | None = None

    def put(self, *records: Record) -> None:
        self.visible.extend(records)

    async def receive(self, limit: int, wait_s: float) -> Sequence[Record]:
        self.receives.append(limit)
        until = self.clock.monotonic() + wait_s
        while True:
            await self.clock.sleep(0)
            if self.fault is not None:
                raise self.fault
            self._reappear()
            if self.visible:
                return [self._hand_out() for _ in range(min(limit, len(self.visible)))]
            if self.clock.monotonic() >= until:
                return []
            await self.clock.sleep(min(0.1, until - self.clock.monotonic()))

    def _hand_out(self) -> Record:
        found = self.visible.popleft()
        self.hidden[found.item_id] = (found, self.clock.monotonic() + (self.lease_s or 1e9))
        return msgspec.structs.replace(found, received_at=self.clock.now())

    def _reappear(self) -> None:
        for item, (found, until) in list(self.hidden.items()):
            if self.clock.monotonic() >= until:
                del self.hidden[item]
                again = found.delivery_count + 1
                self.visible.append(
                    msgspec.structs.replace(found, delivery_count=again, receipt=f"r{item}-{again}")
                )

    async def extend(self, records: Sequence[Record]) -> None:
        for r in records:
            if r.item_id in self.hidden:
                self.hidden[r.item_id] = (
                    self.hidden[r.item_id][0],
                    self.clock.monotonic() + (self.lease_s or 0),
                )

    async def settle(self, resolution: Resolution) -> None:
        for r, verdict in zip(resolution.batch.records, resolution.verdicts, strict=True):
            if not isinstance(verdict, Returned):
                self.hidden.pop(r.item_id, None)
                self.deleted.append(r.item_id)

    async def backlog(self) -> int | None:
        return len(self.visible)

    async def aclose(self) -> None:
        pass


@dataclass(frozen=True)
class FakeTrigger:
    """A queue trigger whose envelope is `{"Records": […]}`."""

    queue: FakeQueue
    limits: BatchLimits = BatchLimits(10, 0.0)
    policy: QueuePolicy = QueuePolicy()
    capabilities: Capabilities = Capabilities()
    filter_rules: FilterRules = FilterRules("body", ("body",), DataFormat.TEXT, Mismatch.DROP)
    source: str = "q"

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        raise AssertionError("made by tests only")

    async def open(self, host: Host, function: FunctionSpec) -> FakeQueue:
        return self.queue

    def envelope(self, records: Sequence[Record]) -> bytes:
        return b'{"Records":[' + b",".join(r.event for r in records) + b"]}"

    def failure_details(self, records: Sequence[Record]) -> JsonObject:
        return {"FakeBatchInfo": {"batchSize": len(records)}}


@dataclass
class FakeFunction:
    """An invoker: `answer` gets the numbers of a batch and says what comes of it."""

    clock: Clock
    answer: Callable[[list[int]], Outcome] = lambda numbers: SUCCESS
    takes_s: float = 0.0
    batches: list[list[int]] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    running: int = 0
    most: int = 0

    async def invoke(self, function: str, event: bytes) -> Outcome:
        if len(event) > MAX_PAYLOAD_BYTES:
            return TooLarge(len(event), MAX_PAYLOAD_BYTES)
        numbers = [r["n"] for r in msgspec.json.decode(event)["Records"]]
        self.batches.append(numbers)
        self.at.append(self.clock.monotonic())
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.takes_s:
                await self.clock.sleep(self.takes_s)
            else:
                await asyncio.sleep(0)
            return self.answer(numbers)
        finally:
            self.running -= 1

    @property
    def seen(self) -> list[int]:
        return [number for batch in self.batches for number in batch]


def failures(*items: int) -> Success:
    """A ReportBatchItemFailures answer."""
    named = [{"itemIdentifier": str(item)} for item in items]
    return Success(msgspec.json.encode({"batchItemFailures": named}), "request-1")


@dataclass
class FakeDestination:
    """Keeps what it is given; refuses while `broken`."""

    name: str = "fake"
    limit_bytes: int | None = None
    payload: Payload = Payload.NONE
    broken: bool = False
    records: list[InvocationRecord] = field(default_factory=list)

    @classmethod
    def claims(cls, target: str) -> bool:
        return False

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        raise AssertionError("made by tests only")

    async def open(self, host: Host) -> None:
        pass

    async def deliver(self, record: InvocationRecord) -> DestinationReceipt:
        if self.broken:
            raise DestinationUnavailable("fake: broken")
        self.records.append(record)
        return DestinationReceipt(self.name)

    async def aclose(self) -> None:
        pass


@dataclass
class FakeObserver:
    """Keeps what it is told."""

    states: list[tuple[State, str]] = field(default_factory=list)
    resolutions: list[Resolution] = field(default_factory=list)
    filtered: int = 0
    failed_polls: list[str] = field(default_factory=list)
    recovered: int = 0
    dropped: int = 0
    rejected: int = 0
    refusals: list[str] = field(default_factory=list)
    failed_batches: int = 0
    failed_deliveries: int = 0
    ages: list[float] = field(default_factory=list)
    partitions: int = 0

    def records_received(self, mapping: str, count: int) -> None:
        pass

    def records_filtered(self, mapping: str, count: int) -> None:
        self.filtered += count

    def invoked(self, mapping: str, records: int, outcome: Outcome, duration_s: float) -> None:
        pass

    def batch_resolved(self, mapping: str, resolution: Resolution) -> None:
        self.resolutions.append(resolution)

    def record_discarded(self, mapping: str, records: Sequence[Record], reason: Reason) -> None:
        pass

    def records_dropped(self, mapping: str, records: Sequence[Record], reason: Reason) -> None:
        self.dropped += len(records)

    def records_rejected(self, mapping: str, records: Sequence[Record], reason: Reason) -> None:
        self.rejected += len(records)

    def refused(self, mapping: str, why: str) -> None:
        self.refusals.append(why)

    def batch_failed(self, mapping: str, records: int) -> None:
        self.failed_batches += 1

    def delivery_failed(self, mapping: str, destination: str, why: str) -> None:
        self.failed_deliveries += 1

    def iterator_age(self, mapping: str, age_s: float) -> None:
        self.ages.append(age_s)

    def partitions_changed(self, mapping: str, count: int) -> None:
        self.partitions = count

    def state_changed(self, mapping: str, state: State, reason: str) -> None:
        self.states.append((state, reason))

    def poll_failed(self, mapping: str, why: str) -> None:
        self.failed_polls.append(why)

    def poll_recovered(self, mapping: str) -> None:
        self.recovered += 1
