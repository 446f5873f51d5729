"""Records that a client cannot read: when they are given up, and how often that is said."""

from __future__ import annotations

from collections.abc import Hashable

GIVEN_UP = "record cannot be read and is given up"

TRIES = 3
"""A broken connection may spoil a record as well: it is fetched anew before it is given up."""

SAID_S = 60.0
"""How long the same is not said again."""

MOST_SAID = 1000
"""How many different ones are kept apart."""


class Unreadable:
    """Counts how often the next record of a partition could not be read."""

    def __init__(self) -> None:
        self._tries: dict[int, tuple[int, int]] = {}  # by partition: the offset, and how often

    def is_final(self, partition: int, offset: int) -> bool:
        """Note a further failure; true once there is nothing more to be tried."""
        known, tries = self._tries.get(partition, (offset, 0))
        tries = tries + 1 if known == offset else 1
        if tries >= TRIES:
            # The batch is spoilt, and so are the records that follow: none is tried as often again.
            self._tries[partition] = (offset + 1, TRIES - 1)
            return True
        self._tries[partition] = (offset, tries)
        return False


class Said:
    """Keeps a log from saying the same all the time."""

    def __init__(self) -> None:
        self._at: dict[Hashable, float] = {}  # monotonic

    def anew(self, what: Hashable, now: float) -> bool:
        """True if it was not said of late; takes it that it is said then."""
        last = self._at.get(what)
        if last is not None and now - last < SAID_S:
            return False
        self._at.pop(what, None)
        self._at[what] = now
        if len(self._at) > MOST_SAID:
            del self._at[next(iter(self._at))]
        return True
