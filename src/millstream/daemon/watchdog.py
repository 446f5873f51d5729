"""Says when the event loop stands still, and where: everything of the daemon waits then."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

LONGEST_S = 1.0
"""A loop that goes without a turn for longer is told of."""

STANDING_S = 10.0
"""A loop that still stands after this is told of before it turns: it may never do so."""

BEAT_S = 0.25
"""The loop says at this interval that it turns."""


@contextmanager
def watched(longest_s: float = LONGEST_S, standing_s: float = STANDING_S) -> Iterator[None]:
    """Log a warning, with the stack, each time that the running loop stands still longer than `longest_s`.

    It is logged when the loop turns again, and an error before that, once it has stood for `standing_s`. A
    thread of its own looks when the loop has been silent for that long.
    """
    dog = _Watchdog(asyncio.get_running_loop(), longest_s, standing_s)
    dog.start()
    try:
        yield
    finally:
        dog.stop()


class _Watchdog:
    def __init__(self, loop: asyncio.AbstractEventLoop, longest_s: float, standing_s: float) -> None:
        self._loop = loop
        self._longest_s = longest_s
        self._standing_s = standing_s
        self._watched = threading.get_ident()
        self._turned_at = time.monotonic()
        self._beat: asyncio.TimerHandle | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._turn()
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._beat is not None:
            self._beat.cancel()
        self._thread.join()

    def _turn(self) -> None:
        self._turned_at = time.monotonic()
        self._beat = self._loop.call_later(BEAT_S, self._turn)

    def _watch(self) -> None:
        while not self._over.wait(self._longest_s - (time.monotonic() - self._turned_at)):
            since = self._turned_at
            if time.monotonic() - since < self._longest_s:
                continue
            stack, told = self._stack(), False
            while self._turned_at == since and not self._over.wait(BEAT_S):
                if not told and time.monotonic() - since > self._standing_s:
                    told = True
                    extra = {"seconds": round(time.monotonic() - since, 1), "stack": self._stack()}
                    logger.error("event loop stands still, nothing is done meanwhile", extra=extra)
            stood_s = round(self._turned_at - since, 1)
            logger.warning("event loop stood still", extra={"seconds": stood_s, "stack": stack})

    def _stack(self) -> str:
        """What the loop's thread is at, innermost call last."""
        frame = sys._current_frames().get(self._watched)
        return "" if frame is None else "".join(traceback.format_stack(frame))
