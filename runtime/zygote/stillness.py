"""Sees to it that what was stopped stays stopped. Standard library only.

A process can have itself continued, by a timer whose signal is SIGCONT, and nobody is told. So it is looked
for what moves, ever more rarely, and stopped again; what keeps on is not to be had frozen.
"""

from __future__ import annotations

import os
import time

FIRST_LOOK_S, LONGEST_S, LONGER = 0.1, 30.0, 4
ENOUGH = 20
"""So often an environment may be found to have moved since it was last frozen."""

STATE, PROCESSOR_TIMES = 0, slice(11, 13)
"""Fields of /proc/PID/stat behind the name. Source: Linux, proc(5)."""

SLEEPS, STILL = "S", "TtZXxD"
"""Stopped, dead, or waiting for the kernel, as a parent by vfork does while its child is stopped."""


class Stillness:
    """Knows when to look next, and how often a stop was in vain."""

    def __init__(self) -> None:
        self._look_at: float | None = None  # monotonic; None: nothing is stopped
        self._pause_s = 0.0
        self._used: int | None = None  # of processors, by all, at the last look
        self._in_vain = 0

    def begin(self) -> None:
        """Everything was just told to stop."""
        self._pause_s = FIRST_LOOK_S
        self._look_at = time.monotonic() + FIRST_LOOK_S
        self._used = None
        self._in_vain = 0

    def end(self) -> None:
        """Everything was told to go on."""
        self._look_at = None

    def wait_ms(self) -> int | None:
        """Milliseconds until the next look. None: none is due."""
        if self._look_at is None:
            return None
        return max(int((self._look_at - time.monotonic()) * 1000) + 1, 0)

    @property
    def due(self) -> bool:
        """True if it is time to look."""
        return self._look_at is not None and self._look_at <= time.monotonic()

    def judge(self, found: str, used: int) -> bool:
        """Take what a look has found: states, and what all have used of processors. False: enough."""
        moves = any(state not in STILL for state in found)
        if moves:
            # Who was not yet given a processor could not stop. Who sleeps could, and was continued.
            self._in_vain += SLEEPS in found or (self._used is not None and used > self._used)
            self._pause_s = FIRST_LOOK_S
        else:
            self._pause_s = min(LONGER * self._pause_s, LONGEST_S)
        self._used = used
        self._look_at = time.monotonic() + self._pause_s
        return self._in_vain < ENOUGH


def look() -> tuple[str, int]:
    """States of all processes of this namespace but the first, and what they have used of processors."""
    states, used = "", 0
    for name in os.listdir("/proc"):
        if name.isdigit() and name != "1" and (fields := _fields(f"/proc/{name}")):
            states += fields[STATE]
            used += sum(map(int, fields[PROCESSOR_TIMES]))
            if fields[STATE] in "ZX":  # its first thread is; others may go on
                states += "".join(found[STATE] for found in map(_fields, _threads(name)) if found)
    return states, used


def _threads(name: str) -> list[str]:
    try:
        return [f"/proc/{name}/task/{thread}" for thread in os.listdir(f"/proc/{name}/task")]
    except OSError:
        return []


def _fields(place: str) -> list[str]:
    """Empty: it is gone."""
    try:
        descriptor = os.open(f"{place}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return os.read(descriptor, 4096).decode("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return []
    finally:
        os.close(descriptor)
