"""Ids of the receives from a FIFO queue: an answer that got lost is asked for again by its id.

What it had brought is hidden, and blocks its groups for a visibility timeout; by its id the service hands it
out again. Source: AWS, ReceiveMessage, ReceiveRequestAttemptId.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from dataclasses import dataclass

ANSWERED_AGAIN_S = 5 * 60.0
"""How long the service knows an id. Source: as above."""

MOST_LOST = 100
"""Ids kept; there are fewer polls than that."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One receive, which may take several calls."""

    id: str
    limit: int  # messages that it may bring
    began_at: float  # monotonic


class Attempts:
    """Hands out ids, those of lost answers first. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lost: deque[Attempt] = deque(maxlen=MOST_LOST)

    def begin(self, limit: int, now: float) -> Attempt:
        """The next receive; one whose answer got lost is made again if it can bring no more than `limit`."""
        with self._lock:
            while self._lost and now - self._lost[0].began_at >= ANSWERED_AGAIN_S:
                self._lost.popleft()
            for attempt in self._lost:
                if attempt.limit <= limit:
                    self._lost.remove(attempt)
                    return attempt
        return Attempt(uuid.uuid4().hex, limit, now)

    def lost(self, attempt: Attempt) -> None:
        """No answer came; nobody knows whether the service gave one."""
        with self._lock:
            self._lost.append(attempt)
