"""Keeps one environment of a function with snapshots ahead: loaded, and not yet restored.

The next invocation that finds none free takes it, also while it is still being made or loaded; then
another is made.
"""

from __future__ import annotations

import asyncio
import logging

from millstream.contract.errors import SandboxUnavailable
from millstream.runtime.fleet import Member, Stage
from millstream.runtime.provisioning import MakesAhead

logger = logging.getLogger(__name__)


class NoRoom(SandboxUnavailable):
    """There is no memory for more than what is needed now."""


class Spares(MakesAhead):
    """Makes one whenever there is none."""

    _said = False

    async def _round(self) -> bool:
        """Make one if it is missing; false if it cannot be made now."""
        if not self._fleet.missing(self._clock.monotonic()):
            self._fleet.short.clear()
            return True
        if self._fleet.spare is not None:  # it is old
            self._end(self._fleet.spare)
        async with self._slots:
            coming = self._fleet.coming = asyncio.Event()
            try:
                member = await self._make(self._fleet)
            except NoRoom:
                return False
            except SandboxUnavailable as unavailable:
                self._say(str(unavailable))
                return False
            finally:
                self._fleet.coming = None
                coming.set()
            return await self._prepare(member)

    async def _prepare(self, member: Member) -> bool:
        self._fleet.spare = member
        try:
            failed = await member.environment.prepare()
        finally:
            member.prepared.set()
        good = failed is None and member.environment.alive
        if good:
            self._said = False
        else:
            self._say("its init phase failed")  # the function's own log says why
        if member.stage is Stage.PREPARING:  # else it was taken meanwhile, and fails again there
            if good:
                self._free(member)
            else:
                self._end(member)
        return good

    def _say(self, why: str) -> None:
        if not self._said:
            extra = {"function": self._fleet.spec.name, "why": why}
            logger.warning("snapshot not made, it is tried again", extra=extra)
        self._said = True
