"""Records that a client cannot read: when they are given up."""

from __future__ import annotations

GIVEN_UP = "record cannot be read and is given up"

TRIES = 3
"""A broken connection may spoil a record as well: it is fetched anew before it is given up."""


class Unreadable:
    """Counts how often the next record of a partition could not be read."""

    def __init__(self) -> None:
        self._tries: dict[int, tuple[int, int]] = {}  # by partition: the offset, and how often

    def is_final(self, partition: int, offset: int) -> bool:
        """Note one more failure; true once there is nothing left to try."""
        known, tries = self._tries.get(partition, (offset, 0))
        tries = tries + 1 if known == offset else 1
        if tries >= TRIES:
            # The batch is spoilt, and so are the records that follow: none is tried as often again.
            self._tries[partition] = (offset + 1, TRIES - 1)
            return True
        self._tries[partition] = (offset, tries)
        return False
