"""How many batches of a queue may run at once, and how many polls wait for more. Pure."""

from __future__ import annotations

from typing import Protocol

from millstream.contract.ports import QueuePolicy

START = 5
"""Concurrent batches of a queue that has just been enabled."""

STEP_PER_S = 300 / 60
"""Further concurrent batches a second while there is a backlog; fewer a second once it is gone."""

CEILING = 1250
"""Most concurrent batches of one mapping.
Source of the three: AWS, "Configuring scaling behavior for SQS event source mappings"."""

LONGEST_STEP_S = 20.0
"""Longest time between two looks that counts as a step; a long poll lasts as long."""

IDLE_AFTER = 2
"""Empty long polls in a row after which a queue counts as idle."""

MAX_POLLERS = 5
"""Polls at once; one brings ten records in milliseconds, so more would only cost threads."""


class Scaler(Protocol):
    """Says how much of one mapping may go on at once, and learns from what happens."""

    @property
    def concurrency(self) -> int:
        """Batches that may run at once; at least 1."""

    @property
    def pollers(self) -> int:
        """Polls that may wait at once; at least 1."""

    @property
    def at_rest(self) -> bool:
        """True if a look would change nothing before a poll has brought something."""

    def polled(self, wanted: int, got: int) -> None:
        """Learn what a poll brought of what was asked for."""

    def looked(self, saturated: bool, now: float) -> None:
        """Learn whether every permit was taken up to `now` (monotonic), since the last look."""

    def failed(self) -> None:
        """Learn that the function failed or was throttled."""

    def succeeded(self) -> None:
        """Learn that the function succeeded."""


def scaler_of(policy: QueuePolicy, now: float) -> Scaler:
    """What scales a mapping of that policy."""
    if policy.concurrency is not None:
        return FixedScaler(policy.concurrency)
    return BacklogScaler(policy.max_concurrency, now)


class FixedScaler:
    """As many batches at once as were declared, whatever happens."""

    pollers = 1
    at_rest = True

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency

    def polled(self, wanted: int, got: int) -> None: ...

    def looked(self, saturated: bool, now: float) -> None: ...

    def failed(self) -> None: ...

    def succeeded(self) -> None: ...


class BacklogScaler:
    """Grows by time while every permit is taken and the last poll found more; shrinks when the queue idles.

    So it grows as fast with functions of fifteen minutes, during which nothing is polled, as with those of
    a millisecond. `maximum` is MaximumConcurrency. Failures count only where the whole batch failed and
    ReportBatchItemFailures is off: with it AWS does not scale down.
    """

    def __init__(self, maximum: int | None, now: float) -> None:
        self._maximum = CEILING if maximum is None else maximum
        self._target = float(min(START, self._maximum))
        self._looked_at = now
        self._more = False  # the last poll brought all that it asked for
        self._empty_polls = 0

    @property
    def concurrency(self) -> int:
        """Batches that may run at once; at least 1."""
        return int(self._target)

    @property
    def pollers(self) -> int:
        """Polls that may wait at once: one while the queue is idle, more once it is not."""
        return 1 if self._idle else min(MAX_POLLERS, self.concurrency)

    @property
    def at_rest(self) -> bool:
        """True if a look would change nothing before a poll has brought something."""
        return self._idle and self._target <= self._least

    def polled(self, wanted: int, got: int) -> None:
        """Learn what a poll brought of what was asked for."""
        self._more = got == wanted
        self._empty_polls = self._empty_polls + 1 if got == 0 else 0

    def looked(self, saturated: bool, now: float) -> None:
        """Learn whether every permit was taken up to `now` (monotonic), since the last look."""
        step = STEP_PER_S * min(max(now - self._looked_at, 0.0), LONGEST_STEP_S)
        if saturated and self._more:
            self._target = min(self._target + step, float(self._maximum))
        elif self._idle and self._target > self._least:
            self._target = max(self._target - step, self._least)
        self._looked_at = now

    def failed(self) -> None:
        """Learn that the function failed or was throttled: run fewer at once."""
        self._target = max(self._target / 2, 1.0)

    def succeeded(self) -> None:
        """Learn that the function succeeded: come back up to the start, one by one."""
        if self._target < self._least:
            self._target = min(self._target + 1, self._least)

    @property
    def _idle(self) -> bool:
        return self._empty_polls >= IDLE_AFTER

    @property
    def _least(self) -> float:
        return float(min(START, self._maximum))
