"""Decides which messages are hidden again, in which order and for how long. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

MANY = 1000
"""From so many held messages on, an extension lasts for longer: a third of the calls. Fewer are seen again
sooner after a crash of the daemon."""

LONGER = 3
"""Visibility timeouts that such an extension lasts."""

MOST_S = 12 * 60 * 60
"""Longest that a message may be hidden since it was received. Source: AWS, ChangeMessageVisibility."""


@dataclass(frozen=True, slots=True)
class _Held:
    received_at: float  # monotonic, as all times here
    until: float  # hidden


class Visibility:
    """Until when each held message is hidden, by message id. For one thread at a time."""

    def __init__(self, lease_s: int) -> None:
        self._lease_s = lease_s
        self._held: dict[str, _Held] = {}

    def received(self, ids: Iterable[str], now: float) -> None:
        """Messages came, hidden for one visibility timeout."""
        for one in ids:
            self._held[one] = _Held(now, now + self._lease_s)

    def due(self, ids: Iterable[str], now: float) -> list[str]:
        """Those that are not hidden for a visibility timeout from now on; what comes back first is first.

        A message that nobody has told of is held from now on, and due at once.
        """
        found = [(self._held.setdefault(one, _Held(now, now)).until, one) for one in ids]
        return [one for until, one in sorted(found) if until < now + self._lease_s]

    def extension_s(self, one: str, now: float) -> int:
        """For how long to hide a message from now on. 0: it is settled, or cannot be hidden any longer."""
        held = self._held.get(one)
        if held is None:
            return 0
        wanted = self._lease_s * (LONGER if len(self._held) >= MANY else 1)
        return max(min(wanted, MOST_S - math.ceil(now - held.received_at)), 0)

    def extended(self, one: str, until: float) -> None:
        """A message is hidden until then; one that was settled meanwhile is passed over."""
        held = self._held.get(one)
        if held is not None:
            self._held[one] = _Held(held.received_at, until)

    def settled(self, ids: Iterable[str], now: float) -> set[str]:
        """Forget messages; those that are hidden for longer than a visibility timeout from now on."""
        held = [(one, self._held.pop(one, None)) for one in ids]
        return {one for one, at in held if at is not None and at.until > now + self._lease_s}
