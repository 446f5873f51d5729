"""Keeps what goes wrong again and again from filling the log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

EVERY_S = 60.0


class Seldom:
    """Says whether a line about a reason is due: the first is, and then one a minute. For any thread.

    Reasons are of a closed set, so that what is kept is bounded.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._said_at: dict[str, float] = {}

    def due(self, reason: str) -> bool:
        """True if a line about `reason` is to be written now."""
        now = self._monotonic()
        with self._lock:
            said_at = self._said_at.get(reason)
            if said_at is not None and now - said_at < EVERY_S:
                return False
            self._said_at[reason] = now
            return True
