"""Token buckets that refill continuously: how often something may happen, with a burst. Pure."""

from __future__ import annotations

ROUNDING_S = 1e-9
"""What sums of intervals may be off by: of a burst of ten, the tenth must still be in time."""


class RateLimit:
    """At most `burst` at once, and `per_s` a second on average; full at first.

    Kept as the time at which the bucket would be full again: one number, O(1), no timer.
    """

    __slots__ = ("_full_at", "_interval_s", "_slack_s")

    def __init__(self, per_s: float, burst: float) -> None:
        """Both are above 0."""
        self._interval_s = 1 / per_s
        self._slack_s = (burst - 1) / per_s
        self._full_at = 0.0

    def take(self, now: float) -> float:
        """Seconds until it may happen. 0: it may now, and is counted."""
        full_at = self._full_at
        if full_at < now:
            full_at = now
        wait_s = full_at - now - self._slack_s
        if wait_s > ROUNDING_S:
            return wait_s
        self._full_at = full_at + self._interval_s
        return 0.0

    def count(self, now: float) -> float:
        """Count it, whatever there is left; seconds until it may happen."""
        self._full_at = max(self._full_at, now) + self._interval_s
        return max(0.0, self._full_at - self._interval_s - now - self._slack_s)

    def give_back(self, count: int) -> None:
        """Uncount as many."""
        self._full_at -= count * self._interval_s
