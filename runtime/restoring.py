"""The life cycle of an environment whose runtimes are restored from a snapshot.

    created ── init ──► loaded ── restore ──► busy ⇄ idle
                          ▲                     │
                          └─ timeout, crash ────┘      snapshot gone ── both within the invoke ──► busy

Source: AWS, "Understanding the Lambda execution environment lifecycle", restore phase.
"""

from __future__ import annotations

import asyncio
import time

from millstream.contract.functions import FunctionFailed
from millstream.runtime.environment import PREPARE_S, Environment
from millstream.runtime.failures import NotLoaded, Told, not_loaded, timed_out
from millstream.runtime.link import Broken
from millstream.runtime.platform import SUCCESS, Ending
from millstream.runtime.processes import NotStarted

RESTORE_S = 10.0
"""Longest restore. Source: AWS, "Lambda SnapStart runtime hooks"."""


class RestoredEnvironment(Environment):
    """Implements ExecutionEnvironment, for functions with `snap_start`."""

    @property
    def _init_limit_s(self) -> float:
        return max(PREPARE_S, self._function.timeout_s)

    @property
    def _restorable(self) -> bool:
        """True if a snapshot is there, and nothing restored from it."""
        if self._broken:
            return self._links.kept
        return self._link is not None and self._link.snapshot

    @property
    def _asleep(self) -> bool:
        return super()._asleep or self._restorable

    async def _wake(self, request_id: str) -> FunctionFailed | None:
        failed = await super()._wake(request_id)
        return await self._restore(request_id) if failed is None and self._restorable else failed

    async def _first_init(self, limit_s: float) -> FunctionFailed | None:
        failed = await super()._first_init(limit_s)
        self._init_s = None  # it is ahead of all invocations, and in no report of theirs
        return failed

    async def _again(self) -> None:
        await super()._again()
        if self._restorable:
            if (failed := await self._restore("")) is not None:
                raise NotLoaded(failed.payload)
            self._restore_s = None  # it is in the invocation's own duration

    async def _restore(self, request_id: str) -> FunctionFailed | None:
        """Have what is loaded wait for work; why it does not. None, too, if the snapshot is lost."""
        self._platform.restore_start()
        began_at = time.monotonic()
        failed, ending = await self._outcome(request_id)
        self._restore_s = time.monotonic() - began_at
        self._platform.restore_over(self._restore_s, ending)
        if failed is None:
            return None
        self._output.end()
        lost = self._link is None or self._link.snapshot
        self._break(ending)
        return None if lost else failed

    async def _outcome(self, request_id: str) -> Told | tuple[None, Ending]:
        try:
            async with asyncio.timeout(RESTORE_S):
                document = await self._restored()
            return (None, SUCCESS) if document is None else not_loaded(document, request_id)
        except TimeoutError:
            return timed_out(RESTORE_S, request_id)
        except (Broken, NotStarted) as broken:
            return self._ended(broken, request_id)

    async def _restored(self) -> bytes | None:
        """The document of a hook that failed. Raises Broken, NotStarted."""
        if self._broken:
            await self._processes.ended()
            if not self._links.kept:  # it ended with the others, or by one of them
                raise NotStarted("its snapshot is gone")
            self._broken = False
            await self._extensions.start()
            await self._extensions.ready()
        return await (self._link or await self._start()).restore()

    def _break(self, ending: Ending, *, killed: bool = False) -> None:
        if self._extensions.external or not self._extensions.none:
            self._processes.kept = None  # they register again, as a runtime is loaded
        super()._break(ending, killed=killed)
