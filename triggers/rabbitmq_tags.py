"""Which delivery tags of a channel are settled, and with how few commands. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Command(NamedTuple):
    """One acknowledgement, of either sign: of `tag`, or of all tags up to it that are not settled."""

    tag: int
    multiple: bool


class Tags:
    """The tags of one channel, which count from 1. A tag is settled once: a second time closes the channel.

    Cost: O(n log n) for n tags at once.
    """

    def __init__(self) -> None:
        self._front = 0  # each tag up to it is settled
        self._beyond: set[int] = set()  # settled tags above it

    def settle(self, tags: Iterable[int]) -> list[Command]:
        """Commands that settle the tags, but for those that are settled; one where all below them are."""
        fresh = sorted(tag for tag in set(tags) if tag > self._front and tag not in self._beyond)
        commands: list[Command] = []
        taken = 0
        while True:
            following = self._front + 1
            if taken < len(fresh) and fresh[taken] == following:
                taken += 1
            elif following in self._beyond:
                self._beyond.remove(following)
            else:
                break
            self._front = following
        if taken:
            commands.append(Command(fresh[taken - 1], True))
        self._beyond.update(fresh[taken:])
        return commands + [Command(tag, False) for tag in fresh[taken:]]
