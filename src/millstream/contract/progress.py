"""How far a partition is resolved, by the order in which its records were read. Pure.

         read order ─────────────────────────────────────────────────────────────►
         ┌─ front: the cursor follows its unbroken run ─┬─ beyond: resolved or not, behind what was let go
                                                        └─ the cursor stays here until that is caught up

Some records may be let go unresolved, to be read again later. From the first of them on the cursor stays;
what was read beyond is followed by itself, and joined to the front once all that was let go is resolved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NewType

Position = NewType("Position", str)
"""A place in a partition: sequence number, offset. Opaque: the core stores it, never orders it."""


class Progress:
    """Of one partition. Cost: O(1) a record, amortized; memory: what is read and not behind the cursor."""

    __slots__ = ("_again", "_behind", "_beyond", "_beyond_at", "_front", "beyond")

    def __init__(self) -> None:
        self._front = _Run()
        self._beyond: _Run | None = None  # None: nothing was let go
        self._beyond_at: Position | None = None  # the last position of its own unbroken run
        self._behind = False  # there are records that were let go and not read again
        self._again: set[Position] = set()  # read again, not resolved
        self.beyond = 0  # records read since the first one was let go

    def __len__(self) -> int:
        """Positions that are kept."""
        return len(self._front) + (0 if self._beyond is None else len(self._beyond) + len(self._again))

    def admit(self, positions: Sequence[Position]) -> None:
        """Take positions in read order.

        Raises:
            ValueError: one of them is here already.
        """
        if self._beyond is None:
            self._front.admit(positions)
        else:
            self._beyond.admit(positions)
            self.beyond += len(positions)

    def stay(self) -> None:
        """Stay before the record that is admitted next, which is let go."""
        self._behind = True
        if self._beyond is None:
            self._beyond, self.beyond = _Run(), 0

    def let_go(self, positions: Sequence[Position]) -> None:
        """Let positions go that were admitted since `stay`; no cursor passes them before `caught_up`."""
        assert self._beyond is not None
        self._beyond_at = self._beyond.complete(positions) or self._beyond_at

    def admit_again(self, positions: Iterable[Position]) -> None:
        """Take positions that were let go, and are read again."""
        self._again |= set(positions)

    def caught_up(self) -> Position | None:
        """Go on once all is resolved that was let go, for it was read again; the cursor, if it moves now."""
        self._behind = False
        return self._joined()

    def complete(self, positions: Sequence[Position]) -> Position | None:
        """Mark positions resolved; the cursor, if it moves."""
        if self._beyond is None:
            return self._front.complete(positions)
        parts: tuple[list[Position], list[Position]] = ([], [])
        for position in positions:
            if position in self._again:
                self._again.remove(position)
            else:
                parts[position in self._beyond].append(position)
        self._beyond_at = self._beyond.complete(parts[True]) or self._beyond_at
        moved = self._front.complete(parts[False])
        return self._joined() or moved

    def _joined(self) -> Position | None:
        """Make one of both parts, if nothing stands between them; the cursor, if it moves."""
        if self._beyond is None or self._behind or self._again:
            return None
        beyond, at = self._beyond, self._beyond_at
        self._beyond, self._beyond_at, self.beyond = None, None, 0
        return self._front.join(at, beyond)


class _Run:
    """Positions in read order, and which of them are resolved."""

    __slots__ = ("order", "resolved")

    def __init__(self) -> None:
        self.order: deque[Position] = deque()
        self.resolved: dict[Position, bool] = {}

    def __len__(self) -> int:
        return len(self.order)

    def __contains__(self, position: Position) -> bool:
        return position in self.resolved

    def admit(self, positions: Sequence[Position]) -> None:
        """Take positions in read order. Raises ValueError for one that is here already."""
        fresh = dict.fromkeys(positions, False)
        if len(fresh) < len(positions) or not fresh.keys().isdisjoint(self.resolved):
            twice = [p for i, p in enumerate(positions) if p in self.resolved or p in positions[:i]]
            raise ValueError(f"{twice[0]} admitted twice")
        self.resolved |= fresh
        self.order.extend(positions)

    def complete(self, positions: Sequence[Position]) -> Position | None:
        """Let go of the resolved run at the front; its last position."""
        order, resolved = self.order, self.resolved
        resolved |= dict.fromkeys(positions, True)
        last: Position | None = None
        # Not the dict's own order: to find its first key takes longer with each one removed before it.
        while order and resolved[order[0]]:
            last = order.popleft()
            del resolved[last]
        return last

    def join(self, at: Position | None, following: _Run) -> Position | None:
        """Append a run, before which all is resolved up to `at`; the last position of the front's run."""
        if at is not None:
            self.order.append(at)
            self.resolved[at] = True
        self.order.extend(following.order)
        self.resolved |= following.resolved
        return self.complete(())
