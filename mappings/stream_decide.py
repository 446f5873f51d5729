"""What becomes of a stream's batch before and after an invocation. Pure: no clock, no I/O.

Source: AWS, "Configuring error handling controls for Kinesis event source mappings" and "…for
DynamoDB event source mappings"; where these are silent, docs/compatibility.md says what we chose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, assert_never

from millstream.contract.functions import FunctionFailed, Outcome, Success, Throttled, TooLarge
from millstream.contract.records import Batch, Reason, Record
from millstream.contract.streams import StreamPolicy
from millstream.mappings.answers import named_items, window_state

FIRST_DELAY_S = 1.0
MAX_DELAY_S = 60.0
"""Waits between tries without progress: the first, doubled up to the longest. Ours; AWS names none."""

UNHANDLED = "Unhandled"
"""`functionError` of a function that raised; it is null where the function named records itself."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A batch on its way to the function."""

    batch: Batch
    failures: int = 0  # tries that counted towards MaximumRetryAttempts
    waits: int = 0  # tries in a row without progress, throttled ones too
    request_id: str | None = None  # of the last invocation
    function_error: str | None = None  # of the last invocation


@dataclass(frozen=True, slots=True)
class Settle:
    """The function took the records."""

    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Retry:
    """Send the batch, again or for the first time."""

    attempt: Attempt
    after_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Hand the records to the on-failure destination, then pass over them."""

    records: tuple[Record, ...]
    reason: Reason
    invoke_count: int
    request_id: str | None  # None: never invoked
    function_error: str | None = None
    waits: int = 0  # tries of the destination so far


Step: TypeAlias = Settle | Retry | GiveUp


def drop_refused(attempt: Attempt) -> tuple[list[GiveUp], Attempt | None]:
    """What the source itself refused of the batch, by reason, and what is left of it.

    Source: AWS, "Using schema registries with Kafka event sources in Lambda".
    """
    records = attempt.batch.records
    reasons = dict.fromkeys([record.refused for record in records])
    if reasons.keys() == {None}:
        return [], attempt
    given_up = [
        GiveUp(tuple(record for record in records if record.refused is reason), reason, 1, None)
        for reason in reasons
        if reason is not None
    ]
    left = tuple(record for record in records if record.refused is None)
    return given_up, replace(attempt, batch=Batch(left)) if left else None


def drop_expired(attempt: Attempt, now: float, policy: StreamPolicy) -> tuple[GiveUp | None, Attempt | None]:
    """The records at the batch's head that are too old now, and what is left of it.

    The count is 1 where they were never tried, as AWS records it.
    """
    records = attempt.batch.records
    if policy.max_age_s is None:
        return None, attempt
    oldest = now - policy.max_age_s
    old, left = split_by_partition(records, lambda record: record.arrived_at < oldest)
    if not old:
        return None, attempt
    given_up = GiveUp(old, Reason.TOO_OLD, max(attempt.failures, 1), attempt.request_id)
    return given_up, replace(attempt, batch=Batch(left)) if left else None


def decide(attempt: Attempt, outcome: Outcome, policy: StreamPolicy) -> list[Step]:
    """Steps that cover each record of the batch once, in order; no step is empty."""
    match outcome:
        case Throttled(retry_after_s=retry_after_s):
            again = replace(attempt, waits=attempt.waits + 1)
            return [Retry(again, max(delay_s(again.waits), retry_after_s))]
        case FunctionFailed(request_id=request_id):
            failed = replace(attempt, request_id=request_id, function_error=UNHANDLED)
            return _whole(failed, policy)
        case Success(payload=payload, request_id=request_id):
            tried = replace(attempt, request_id=request_id, function_error=None)
            return _by_answer(tried, payload, policy)
        case TooLarge():
            return _too_large(attempt)
        case _:
            assert_never(outcome)


def split_by_partition(
    records: Sequence[Record], goes: Callable[[Record], bool]
) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Of each partition the records before the first one that does not go, and those from it on."""
    going: list[Record] = []
    staying: list[Record] = []
    stopped: set[str] = set()
    for record in records:
        if record.partition in stopped or not goes(record):
            stopped.add(record.partition)
            staying.append(record)
        else:
            going.append(record)
    return tuple(going), tuple(staying)


def delay_s(waits: int) -> float:
    """How long to wait after so many tries in a row that brought nothing: 1, 2, 4 … 60 s."""
    return float(min(FIRST_DELAY_S * 2 ** min(waits - 1, 10), MAX_DELAY_S))


def _too_large(attempt: Attempt) -> list[Step]:
    """Smaller batches, without counting a try; a record that is too large alone can never be sent."""
    records = attempt.batch.records
    if len(records) == 1:
        return [GiveUp(records, Reason.TOO_LARGE, max(attempt.failures, 1), attempt.request_id)]
    return [Retry(replace(attempt, batch=Batch(half)), 0.0) for half in halves(records)]


def halves(records: tuple[Record, ...]) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Records in two parts, in order; of an odd number the first is the smaller one."""
    middle = len(records) // 2
    return records[:middle], records[middle:]


def _by_answer(attempt: Attempt, payload: bytes, policy: StreamPolicy) -> list[Step]:
    records = attempt.batch.records
    if policy.tumbling_window_s and window_state(payload) is None:
        return _whole(attempt, policy)
    if not policy.item_failures:
        return [Settle(records)]
    named = named_items(attempt.batch, payload, policy.item_id)
    if named is None:
        return _whole(attempt, policy)
    if not named:
        return [Settle(records)]
    taken, left = split_by_partition(records, lambda record: record.item_id not in named)
    if not taken:
        return [_retry(attempt, policy)]
    # What is left is a batch of its own: its tries are counted from the start.
    rest = Attempt(Batch(left), request_id=attempt.request_id)
    return [Settle(taken), Retry(rest, 0.0)]


def _whole(attempt: Attempt, policy: StreamPolicy) -> list[Step]:
    """The batch failed as a whole."""
    records = attempt.batch.records
    if policy.bisect and len(records) > 1:
        # Source: AWS, BisectBatchOnFunctionError: a split does not count towards the retry quota.
        return [Retry(replace(attempt, batch=Batch(half)), 0.0) for half in halves(records)]
    return [_retry(attempt, policy)]


def _retry(attempt: Attempt, policy: StreamPolicy) -> Step:
    failures = attempt.failures + 1
    if policy.max_retries is not None and failures > policy.max_retries:
        reason, records = Reason.RETRIES_EXHAUSTED, attempt.batch.records
        return GiveUp(records, reason, failures, attempt.request_id, attempt.function_error)
    again = replace(attempt, failures=failures, waits=attempt.waits + 1)
    return Retry(again, delay_s(again.waits))
