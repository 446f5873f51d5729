"""The ports of the core. A plugin implements one; the core knows nothing else of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias

from millstream.contract.clock import Clock
from millstream.contract.functions import FunctionFailed, FunctionSpec, Outcome
from millstream.contract.records import DestinationReceipt, Reason, Record, Resolution
from millstream.contract.state import State

JsonObject: TypeAlias = dict[str, Any]


# ---- triggers


class DataFormat(Enum):
    """How the data of a record is written in its event."""

    TEXT = "text"  # a JSON string that may itself hold JSON
    BASE64 = "base64"  # base64 of UTF-8 text that may hold JSON
    JSON = "json"  # part of the event's own JSON


class Mismatch(Enum):
    """What a filter does when the data is not of the pattern's format (JSON or text)."""

    DROP = "drop"  # the record does not match
    IGNORE_DATA = "ignore-data"  # the data part of the pattern is skipped


@dataclass(frozen=True, slots=True)
class FilterRules:
    """How filters look into a source's records.

    `data_key` is the pattern's top-level key for the data; `data_path` leads to it in the event.
    Source: AWS, "Control which events Lambda sends to your function", format matrix.
    """

    data_key: str
    data_path: tuple[str, ...]
    data_format: DataFormat
    mismatch: Mismatch


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a trigger's source can do; steers the runner and the conformance kit."""

    ordered_by_key: bool = False
    counts_deliveries: bool = False  # records carry a true `delivery_count`
    keeps_ids: bool = True  # a record that is delivered again has the same `item_id`


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """When a batch is sent, by the first limit that it meets (6 MB of event is the other)."""

    size: int
    window_s: float
    from_first: bool = False  # the window opens with a batch's first record; else with the batch


@dataclass(frozen=True, slots=True)
class RetryInPlace:
    """How failed records are tried again while they are held, without the queue's taking them back."""

    first_s: float  # the first wait, doubled with each further failure
    most_s: float  # the longest wait
    within_s: float  # since a record was received; what would take longer goes back to the queue


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """What a mapping does with failures and load, as its options say."""

    item_failures: bool = False  # ReportBatchItemFailures
    max_retries: int | None = None  # None: until the queue itself gives up
    concurrency: int | None = None  # batches at once, always. None: as many as the backlog asks for
    max_concurrency: int | None = None  # MaximumConcurrency; None: the service's own scaling
    page: int = 10  # records that one poll asks for at most
    drops_too_large: bool = False  # what no event can hold is given up at once; else the queue keeps it
    rejects: bool = False  # the queue passes what is rejected to a dead-letter exchange, if it has one
    in_place: RetryInPlace | None = None  # None: what failed goes back to the queue, which hides it


@dataclass(frozen=True, slots=True)
class Host:
    """What the daemon lends to a plugin."""

    data_dir: Path
    clock: Clock
    invoker: Invoker
    endpoint_url: str | None = None  # None: the vendor's own
    region: str | None = None  # None: by the client library's own chain
    mapping: str = ""  # UUID of the mapping that a source is opened for
    buffer_bytes: int = (
        64 * 1024 * 1024
    )  # what the client of a source may hold beyond what the core asked for


class QueueReader(Protocol):
    """Reads one queue. Its calls may overlap; `receive` at most as often as the runner has pollers."""

    @property
    def lease_s(self) -> float | None:
        """For how long a received record stays hidden from others. None: until it is settled."""

    async def receive(self, limit: int, wait_s: float) -> Sequence[Record]:
        """Up to `limit` records; empty after `wait_s` without any.

        Raises:
            SourceUnavailable: retried by the supervisor.
            Refused: the queue is gone or refuses us.
        """

    async def extend(self, records: Sequence[Record]) -> None:
        """Hide `records` for `lease_s` from now on. One that is gone already is passed over."""

    async def settle(self, resolution: Resolution) -> None:
        """Take Done and Discarded records off the queue; see that Returned ones are delivered again.

        Rejected ones go to the queue's dead-letter exchange; they come only where the policy says `rejects`.
        """

    async def backlog(self) -> int | None:
        """About how many records wait. None: the source does not say."""

    async def aclose(self) -> None:
        """End within a second; records that a poll in flight still brings go back to the queue."""


class QueueTrigger(Protocol):
    """The declared source of one mapping on a queue."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def filter_rules(self) -> FilterRules: ...

    @property
    def limits(self) -> BatchLimits: ...

    @property
    def policy(self) -> QueuePolicy: ...

    @property
    def source(self) -> str:
        """The source in a user's words, as `millstream mappings` shows it: a name or an ARN."""

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        """Check the options of a declaration, without a network.

        Raises:
            InvalidConfiguration: with every problem; `where` is left empty for the caller to fill.
        """

    async def open(self, host: Host, function: FunctionSpec) -> QueueReader:
        """Find the source and check what only it knows.

        Raises:
            InvalidConfiguration: its settings do not fit the declaration or the function.
            Refused: there is no such source, or it refuses us.
            SourceUnavailable: it does not answer now.
        """

    def envelope(self, records: Sequence[Record]) -> bytes:
        """The event for the function, from the records' own bytes joined once."""

    def failure_details(self, records: Sequence[Record]) -> JsonObject:
        """The part of an invocation record that tells which records failed: `{"…BatchInfo": {…}}`."""


# ---- the runtime


class Invoker(Protocol):
    """Runs functions."""

    async def invoke(self, function: str, event: bytes) -> Outcome:
        """One synchronous invocation. Every answer is a value; it never raises for the function's sake."""


class ExecutionEnvironment(Protocol):
    """One sandbox with one function version in it; one invocation at a time."""

    @property
    def alive(self) -> bool:
        """False once it must not be used again."""

    @property
    def memory_kb(self) -> int:
        """What it holds now, about. 0: not known."""

    async def prepare(self) -> FunctionFailed | None:
        """Run the init phase ahead of any invocation, as provisioned concurrency does; why it failed.

        It may take 130 s, or the function's timeout if that is longer.
        Source: AWS, "Understanding the Lambda execution environment lifecycle".
        """

    async def invoke(self, event: bytes, request_id: str) -> Outcome:
        """Run the handler; a timeout or a crash is an answer. Thaws a frozen one by itself."""

    @property
    def busy(self) -> bool:
        """True while extensions are at work after an answer, or a shutdown goes on: it takes no work."""

    async def idle(self) -> None:
        """Return once it is not busy."""

    def freeze(self) -> None:
        """Stop every process of it until its next `invoke`; returns at once."""

    async def aclose(self) -> None:
        """End every process of it; an invocation that runs is cut off."""


class LogSink(Protocol):
    """Takes lines of a function's log."""

    def write(self, stream: str, text: str) -> None:
        """Append one line, without its newline; `stream` tells environments apart. Never blocks."""


class Sandbox(Protocol):
    """A way to isolate functions on this host: a driver. Made with a folder of its own to work in."""

    async def start(self) -> None:
        """Make ready.

        Raises:
            SandboxUnavailable: this host cannot; the message names the ways out.
        """

    def limits(self) -> str:
        """Which limits hold on this host, once it is started; one line for a person."""

    async def create(self, function: FunctionSpec, log: LogSink) -> ExecutionEnvironment:
        """A new environment, its processes started, the handler's module perhaps not yet loaded.

        Raises:
            SandboxUnavailable: no further environment can be made now.
        """

    async def aclose(self) -> None:
        """End every environment and process that this driver made."""


# ---- destinations


class Payload(Enum):
    """What the failure records of a stream carry of the event that was given up."""

    NONE = "none"  # which records they were, no more
    EVENT = "event"  # all of it, as a JSON string
    RECORD = "record"  # one document for each record, with its own event as an object


@dataclass(frozen=True, slots=True)
class InvocationRecord:
    """What a destination is given: `body` is the compact JSON document, the rest is for addressing."""

    body: bytes
    function_arn: str  # with its qualifier
    succeeded: bool
    mapping_id: str
    partition: str
    request_id: str
    written_at: float  # Unix seconds, the document's own timestamp
    key: bytes | None = None  # documents of one key keep their order, where the destination has keys

    @property
    def size_bytes(self) -> int:
        """Size of what is sent."""
        return len(self.body) + len(self.key or b"")


class Destination(Protocol):
    """Takes invocation records."""

    @property
    def name(self) -> str:
        """The destination in a user's words, without secrets."""

    @property
    def limit_bytes(self) -> int | None:
        """Largest `size_bytes` that it takes; known once it is open. None: no limit."""

    @property
    def payload(self) -> Payload:
        """What failure records of streams carry for it.

        Source: AWS, "Capturing discarded batches for a self-managed Apache Kafka event source": the whole
        event to S3 alone, and one document a record to Kafka topics.
        """

    @classmethod
    def claims(cls, target: str) -> bool:
        """True if a plain string (`arn:aws:sqs:…`, `https://…`) names a target of this kind."""

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        """Check a declaration, without a network; `target` is the string that was declared.

        Raises:
            InvalidConfiguration: with every problem; `where` is left empty for the caller to fill.
        """

    async def open(self, host: Host) -> None:
        """Make ready to deliver; finds the target where that can be checked.

        Raises:
            InvalidConfiguration: the target does not fit the declaration.
            Refused: there is no such target, or it refuses us.
            DestinationUnavailable: it does not answer now.
        """

    async def deliver(self, record: InvocationRecord) -> DestinationReceipt:
        """Hand a record over; returns once the target holds it.

        Raises:
            DocumentTooLarge: it takes no document of that size.
            DestinationUnavailable: it does not hold the record, or nobody knows.
        """

    async def aclose(self) -> None: ...


# ---- observation


class Observer(Protocol):
    """Told what happens in a mapping, per batch. Calls are quick and never raise."""

    def records_received(self, mapping: str, count: int) -> None: ...

    def records_filtered(self, mapping: str, count: int) -> None: ...

    def invoked(self, mapping: str, records: int, outcome: Outcome, duration_s: float) -> None: ...

    def batch_resolved(self, mapping: str, resolution: Resolution) -> None: ...

    def record_discarded(self, mapping: str, records: Sequence[Record], reason: Reason) -> None: ...

    def records_dropped(self, mapping: str, records: Sequence[Record], reason: Reason) -> None:
        """Given up, and no destination holds them: none is declared, or it did not take them."""

    def records_rejected(self, mapping: str, records: Sequence[Record], reason: Reason) -> None:
        """Given up to the queue that they came from, which may have a dead-letter exchange."""

    def batch_failed(self, mapping: str, records: int) -> None:
        """The function raised for a batch, or named records of it as failed."""

    def delivery_failed(self, mapping: str, destination: str, why: str) -> None:
        """A destination did not take an invocation record."""

    def iterator_age(self, mapping: str, age_s: float) -> None:
        """How old the last record of a stream's batch was when it was sent to the function."""

    def partitions_changed(self, mapping: str, count: int) -> None:
        """This daemon reads so many partitions of a stream now."""

    def state_changed(self, mapping: str, state: State, reason: str) -> None: ...

    def refused(self, mapping: str, why: str) -> None:
        """The source or a destination refuses us now, or is not there; it is asked again after a while."""

    def poll_failed(self, mapping: str, why: str) -> None:
        """The source did not answer; it is asked again after a while."""

    def poll_recovered(self, mapping: str) -> None:
        """The source answers again."""
