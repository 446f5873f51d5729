"""What becomes of a queue's batch after one invocation. Pure: no clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, assert_never

from millstream.contract.functions import FunctionFailed, Success
from millstream.contract.ports import QueuePolicy
from millstream.contract.records import Batch, Reason, Record
from millstream.mappings.answers import failed_items


@dataclass(frozen=True, slots=True)
class Settle:
    """Take the records off the queue."""

    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Return:
    """Leave the records to the queue, which delivers them again."""

    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Hand the records to the on-failure destination, then take them off the queue."""

    records: tuple[Record, ...]
    reason: Reason


Step: TypeAlias = Settle | Return | GiveUp


def decide(batch: Batch, outcome: Success | FunctionFailed, policy: QueuePolicy) -> list[Step]:
    """Steps that cover each record of the batch once; no step is empty.

    Source: AWS, "Handling errors for an SQS event source in Lambda". Giving up after
    `max_retries` is ours: AWS leaves it to the queue's redrive policy.
    """
    match outcome:
        case Success(payload=payload):
            failed = failed_items(batch, payload) if policy.item_failures else frozenset[str]()
        case FunctionFailed():
            failed = frozenset(record.item_id for record in batch.records)
        case _:
            assert_never(outcome)
    if not failed:
        return [Settle(batch.records)]
    done, spent, again = [], [], []
    for record in batch.records:
        if record.item_id not in failed:
            done.append(record)
        elif policy.max_retries is not None and record.delivery_count > policy.max_retries:
            spent.append(record)
        else:
            again.append(record)
    steps: list[Step] = []
    if done:
        steps.append(Settle(tuple(done)))
    if spent:
        steps.append(GiveUp(tuple(spent), Reason.RETRIES_EXHAUSTED))
    if again:
        steps.append(Return(tuple(again)))
    return steps
