"""Counts what happens in each mapping, and says in the log what a person wants to know."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from millstream.contract.clock import Clock
from millstream.contract.functions import FunctionFailed, Outcome, Success, Throttled, TooLarge
from millstream.contract.plain_text import shown
from millstream.contract.records import (
    By,
    Discarded,
    Done,
    Reason,
    Record,
    Rejected,
    Resolution,
    Returned,
    Verdict,
)
from millstream.contract.state import MappingStatus, State

logger = logging.getLogger(__name__)

RATE_SPAN_S = 10.0
"""Rates are means over this span."""

REASON_CHARACTERS = 2048
"""Longest reason that is kept of what a source or a client said."""

OK = "OK"
FAILED = "PROBLEM: Function call failed"
"""LastProcessingResult. Source: AWS, GetEventSourceMapping."""


@dataclass(slots=True)
class _Counted:
    """A MappingStatus that can still change."""

    label: str
    state: State = "Creating"
    state_reason: str = ""
    last_result: str = "No records processed"
    updated_at: float = 0.0
    received: int = 0
    filtered: int = 0
    delivered: int = 0
    returned: int = 0
    discarded: int = 0
    dropped: int = 0
    invocations: int = 0
    errors: int = 0
    throttles: int = 0
    invoked_records: int = 0
    failed_records: int = 0
    delivery_failures: int = 0
    iterator_age_s: float | None = None
    partitions: int | None = None
    changed: bool = True
    samples: deque[tuple[float, int]] = field(default_factory=deque)  # (monotonic, delivered)

    def add(self, verdict: Verdict, count: int) -> None:
        """Count records that came to the same end."""
        match verdict:
            case Done(by=By.FUNCTION):
                self.delivered += count
            case Done():
                pass  # counted as filtered already
            case Returned():
                self.returned += count
            case Discarded() | Rejected():
                self.discarded += count


_SHARED = [f.name for f in fields(MappingStatus) if f.name != "uuid"]


class StatusBoard:
    """Implements Observer for all mappings of a daemon."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._mappings: dict[str, _Counted] = {}

    def add(self, mapping: str, label: str, before: MappingStatus | None) -> None:
        """Take up a mapping, with the counters that it had when the last daemon stopped.

        `label` names it in log lines: source and function.
        """
        counted = _Counted(label)
        if before is not None:
            for name in _SHARED:
                if name not in ("state", "state_reason"):
                    setattr(counted, name, getattr(before, name))
        self._mappings[mapping] = counted

    def status(self, mapping: str) -> MappingStatus:
        """How a mapping is doing now."""
        counted = self._mappings[mapping]
        return MappingStatus(mapping, **{name: getattr(counted, name) for name in _SHARED})

    def take_changed(self) -> list[MappingStatus]:
        """Statuses that changed since the last call."""
        changed = [mapping for mapping, counted in self._mappings.items() if counted.changed]
        for mapping in changed:
            self._mappings[mapping].changed = False
        return [self.status(mapping) for mapping in changed]

    def rate(self, mapping: str) -> float:
        """Records a second that the function took, over the last ten seconds."""
        counted = self._mappings[mapping]
        self._sample(counted)
        first_at, first = counted.samples[0]
        last_at, last = counted.samples[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else 0.0

    def sample(self) -> None:
        """Remember the counters for rates; called about once a second."""
        for counted in self._mappings.values():
            self._sample(counted)

    def _sample(self, counted: _Counted) -> None:
        now = self._clock.monotonic()
        counted.samples.append((now, counted.delivered))
        while now - counted.samples[0][0] > RATE_SPAN_S and len(counted.samples) > 1:
            counted.samples.popleft()

    # Observer

    def records_received(self, mapping: str, count: int) -> None:
        self._touch(mapping).received += count

    def records_filtered(self, mapping: str, count: int) -> None:
        self._touch(mapping).filtered += count

    def invoked(self, mapping: str, records: int, outcome: Outcome, duration_s: float) -> None:
        counted = self._touch(mapping)
        if not isinstance(outcome, Throttled | TooLarge):
            counted.invoked_records += records
        match outcome:
            case Success():
                counted.invocations += 1
                if counted.last_result not in (OK, "No records processed"):
                    logger.info("function succeeds again", extra={"mapping": counted.label})
                counted.last_result = OK
            case FunctionFailed():
                counted.invocations += 1
                counted.errors += 1
                self._say_failing(counted, outcome)
                counted.last_result = FAILED
            case Throttled():
                counted.throttles += 1
            case TooLarge():
                pass  # its records are sent in smaller batches, or given up, which is told by itself

    def _say_failing(self, counted: _Counted, failed: FunctionFailed) -> None:
        if counted.last_result == FAILED:
            return  # said once, until it succeeds again
        why = {"error": failed.error_type, "request": failed.request_id}
        logger.warning("function fails, its records come again", extra={"mapping": counted.label, **why})

    def batch_resolved(self, mapping: str, resolution: Resolution) -> None:
        counted, verdicts = self._touch(mapping), resolution.verdicts
        if verdicts.count(verdicts[0]) == len(verdicts):  # most often, and quicker than to look at each
            counted.add(verdicts[0], len(verdicts))
            return
        for verdict in verdicts:
            counted.add(verdict, 1)

    def record_discarded(self, mapping: str, records: Sequence[Record], reason: Reason) -> None:
        extra = {"mapping": self._mappings[mapping].label, "records": len(records), "reason": reason.value}
        logger.debug("records given up to the destination", extra=extra)

    def records_dropped(self, mapping: str, records: Sequence[Record], reason: Reason) -> None:
        counted = self._touch(mapping)
        counted.dropped += len(records)
        extra = {"mapping": counted.label, **_told(records, reason)}
        logger.warning("records dropped, no destination holds them", extra=extra)

    def records_rejected(self, mapping: str, records: Sequence[Record], reason: Reason) -> None:
        extra = {"mapping": self._touch(mapping).label, **_told(records, reason)}
        logger.warning("records rejected, to be dead-lettered if their queue says where", extra=extra)

    def batch_failed(self, mapping: str, records: int) -> None:
        self._touch(mapping).failed_records += records

    def delivery_failed(self, mapping: str, destination: str, why: str) -> None:
        counted = self._touch(mapping)
        counted.delivery_failures += 1
        extra = {"mapping": counted.label, "destination": destination, "why": why}
        logger.warning("invocation record not delivered", extra=extra)

    def iterator_age(self, mapping: str, age_s: float) -> None:
        self._touch(mapping).iterator_age_s = age_s

    def partitions_changed(self, mapping: str, count: int) -> None:
        self._touch(mapping).partitions = count

    def state_changed(self, mapping: str, state: State, reason: str) -> None:
        counted = self._touch(mapping)
        counted.state, counted.state_reason = state, _storable(reason)
        extra = {"mapping": counted.label, "state": state}
        if reason:
            logger.error("mapping stopped for good", extra={**extra, "why": reason})
        else:
            logger.info("mapping changed", extra=extra)

    def refused(self, mapping: str, why: str) -> None:
        counted = self._touch(mapping)
        problem = f"PROBLEM: {_storable(why)}"
        if counted.state_reason != problem:
            logger.error("mapping refused, tried again", extra={"mapping": counted.label, "why": why})
        counted.state_reason = counted.last_result = problem

    def poll_failed(self, mapping: str, why: str) -> None:
        counted = self._touch(mapping)
        if not counted.state_reason:
            logger.warning("source unavailable, retrying", extra={"mapping": counted.label, "why": why})
        counted.state_reason = f"retrying: {_storable(why)}"

    def poll_recovered(self, mapping: str) -> None:
        counted = self._touch(mapping)
        if counted.state_reason:
            logger.info("source available again", extra={"mapping": counted.label})
        counted.state_reason = ""

    def _touch(self, mapping: str) -> _Counted:
        counted = self._mappings[mapping]
        counted.changed = True
        counted.updated_at = self._clock.now()
        return counted


def _storable(text: str) -> str:
    """A text that every store can hold and a terminal may have: messages of clients may hold anything."""
    return shown(text.replace("\n", "; "), REASON_CHARACTERS)


def _told(records: Sequence[Record], reason: Reason) -> dict[str, object]:
    """Which records a line is about, without what is in them."""
    first, last = records[0], records[-1]
    place = {"partition": first.partition, "first": first.item_id, "last": last.item_id}
    return {"records": len(records), "reason": reason.value, **place}
