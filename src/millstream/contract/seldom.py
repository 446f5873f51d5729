"""Keeps what goes wrong again and again from filling the log."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable

EVERY_S = 60.0
"""The same is not said again for so long."""

MOST_REASONS = 1000
"""Reasons that are told apart: a reason may have in it what a producer wrote."""


class Seldom:
    """Says whether a line about something is due: the first is, and then one a minute. For any thread."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._said: dict[Hashable, tuple[float, int]] = {}  # when, and how many left out since

    def due(self, reason: Hashable) -> bool:
        """True if a line about `reason` is to be written now."""
        return self._left_out(reason) is not None

    def warning(self, logger: logging.Logger, sentence: str, why: str, **fields: object) -> None:
        """Log a warning if it is due, with the number of those that were left out before it."""
        left_out = self._left_out((sentence, why))
        if left_out is not None:
            logger.warning(sentence, extra={**fields, "why": why, "left_out": left_out})

    def _left_out(self, reason: Hashable) -> int | None:
        """Count the lines about `reason` that were left out since the last. None: leave out this one."""
        now = self._monotonic()
        with self._lock:
            said_at, left_out = self._said.pop(reason, (-EVERY_S + now, 0))
            due = now - said_at >= EVERY_S
            self._said[reason] = (now, 0) if due else (said_at, left_out + 1)
            if len(self._said) > MOST_REASONS:
                del self._said[next(iter(self._said))]
        return left_out if due else None
