"""Tells which holders have fallen silent, by this process's own clock. Pure.

A holder leaves another mark in the store each time it renews, with how long it lasts. Whoever has seen
one mark, unchanged, for that long knows that the holder has not renewed in that time, whatever wall
clocks say. What was the holder's is then taken in one statement, on the condition that its mark is still
that one: a renewal that comes in between wins.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Mark(msgspec.Struct, frozen=True, gc=False):
    """The last thing that a holder wrote."""

    owner: str
    epoch: int  # 0 where there are no epochs
    beat: int  # grows with each renewal
    lasts_s: float


class Seen(msgspec.Struct, frozen=True, gc=False):
    """A mark, and when it was seen first."""

    mark: Mark
    since: float

    def left_s(self, now: float) -> float:
        """Return how much longer the holder is believed to live; 0 or less: it has fallen silent."""
        return self.since + self.mark.lasts_s - now


def look(before: Mapping[str, Seen], found: Mapping[str, Mark], now: float) -> dict[str, Seen]:
    """Return what is known after a look that ended at `now`, monotonic; a mark as before keeps its time.

    The time of a new mark begins with the look's end: the holder wrote it earlier than that, never later.
    """
    return {
        name: before[name] if name in before and before[name].mark == mark else Seen(mark, now)
        for name, mark in found.items()
    }


class Watch:
    """Remembers what this process saw of the holders of one kind of thing; those of a mapping have names."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, Seen]] = {}

    def saw(self, mapping: str, found: Mapping[str, Mark], now: float) -> None:
        """Note all that a mapping has."""
        seen = look(self._seen.pop(mapping, {}), found, now)
        if seen:
            self._seen[mapping] = seen

    def saw_one(self, mapping: str, name: str, mark: Mark, now: float) -> None:
        """Note one of them, and leave the others as they were."""
        known = self._seen.setdefault(mapping, {})
        known.update(look(known, {name: mark}, now))

    def left_s(self, mapping: str, name: str, now: float) -> float | None:
        """Return how much longer a holder is believed to live. None: it was never seen."""
        seen = self._seen.get(mapping, {}).get(name)
        return None if seen is None else seen.left_s(now)

    def silent_one(self, mapping: str, name: str, now: float) -> Mark | None:
        """The last mark of a holder that has fallen silent. None: it has not, or was never seen."""
        seen = self._seen.get(mapping, {}).get(name)
        return None if seen is None or seen.left_s(now) > 0 else seen.mark

    def silent(self, mapping: str, now: float) -> dict[str, Mark]:
        """The last marks of all who have fallen silent."""
        return {
            name: seen.mark for name, seen in self._seen.get(mapping, {}).items() if seen.left_s(now) <= 0
        }
