"""How long to wait before something that failed is tried again. Pure: time and chance come in."""

from __future__ import annotations

import random
from collections.abc import Callable

HEALTHY_S = 60.0
"""Without a failure for so long, what fails next is a new trouble: its waits start anew."""


class Backoff:
    """Waits between tries of one thing: the first, doubled up to the longest, each shortened by chance.

    Chance takes up to a half off, so that many that failed together do not come back together.
    """

    def __init__(self, first_s: float, most_s: float, chance: Callable[[], float] = random.random) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._chance = chance
        self._failures = 0
        self._tried_again_at = 0.0  # monotonic: when the last wait was over

    def wait_s(self, now: float) -> float:
        """How long to wait after a failure at `now` (monotonic)."""
        if now - self._tried_again_at >= HEALTHY_S:
            self._failures = 0
        longest = min(self._first_s * float(2 ** min(self._failures, 32)), self._most_s)
        self._failures += 1
        wait_s = longest * (1 - self._chance() / 2)
        self._tried_again_at = now + wait_s
        return wait_s
