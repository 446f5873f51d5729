"""Says which mappings this daemon declares, and lets go of those that no file declares any more.

declared ── in no daemon's file ────────► retired ── a day later ──► deleted, with its cursors
   ▲                                        │
   └───────── declared again ◄──────────────┘   the same uuid, cursors, consumer group
"""

from __future__ import annotations

import logging
from collections.abc import Set
from contextlib import suppress
from itertools import chain, repeat

from millstream.contract.clock import Clock
from millstream.contract.errors import StateUnavailable
from millstream.contract.state import MappingRow, StateStore

logger = logging.getLogger(__name__)

EVERY_S = 10.0
LASTS_S = 35.0
"""A daemon says so often which mappings it has, and what it said holds for so long."""

GRACE_S = 86_400.0
"""A mapping that no file declares is kept for so long: time enough to roll a deployment back."""

LOOK_S = 3600.0
"""A daemon looks so often for mappings whose grace is over."""

SECOND_LOOK_S = LASTS_S + EVERY_S
"""A daemon looks again after so long; by then one that ended without a word is known to be silent."""


class Attendance:
    """Says in the store, for as long as `keep` runs, that a daemon has its mappings, disabled ones too."""

    def __init__(self, mappings: list[str], owner: str, store: StateStore) -> None:
        self._mappings = mappings
        self._owner = owner
        self._store = store

    async def keep(self, clock: Clock) -> None:
        """Say so until cancelled; a store that does not answer is told later."""
        while self._mappings:
            with suppress(StateUnavailable):  # its callers that need it say so
                await self._store.attend(self._owner, self._mappings, LASTS_S)
            await clock.sleep(EVERY_S)

    async def end(self) -> None:
        """Say that the daemon has none of them any more."""
        with suppress(StateUnavailable):  # it runs out by itself
            await self._store.attend(self._owner, self._mappings, 0.0)


class Retirement:
    """Retires what an app's file does not declare, and deletes it after its grace."""

    def __init__(self, app: str, owner: str, store: StateStore, clock: Clock) -> None:
        self._app = app
        self._owner = owner
        self._store = store
        self._clock = clock

    async def keep(self, declared: Set[str]) -> None:
        """Look from time to time, until cancelled."""
        for wait_s in chain([SECOND_LOOK_S], repeat(LOOK_S)):
            await self._clock.sleep(wait_s)
            try:
                await self.look(declared)
            except StateUnavailable as unavailable:
                logger.warning("undeclared mappings not looked for", extra={"why": str(unavailable)})

    async def look(self, declared: Set[str]) -> None:
        """Retire or delete mappings that are not among `declared`, by uuid, and that no other daemon has."""
        for row in await self._store.mappings():
            if row.app == self._app and row.uuid not in declared:
                await self._let_go(row)

    async def _let_go(self, row: MappingRow) -> None:
        extra = {"mapping": f"{row.kind} {row.source} → {row.function}"}
        # Of no time at all, an announcement only says who else reads the mapping's partitions.
        others = {
            *await self._store.attendants(row.uuid),
            *await self._store.announce(row.uuid, self._owner, 0.0),
        }
        if others - {self._owner}:
            logger.info("mapping kept, another daemon declares it", extra=extra)
        elif row.retired_at is None:
            await self._store.retire(row.uuid)
            logger.warning("mapping retired, it is declared no more; deleted in a day", extra=extra)
        elif self._clock.now() - row.retired_at >= GRACE_S:
            await self._store.delete_mapping(row.uuid)
            logger.warning("mapping deleted, it was declared no more for a day", extra=extra)
