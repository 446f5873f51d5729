"""Writes the states and counters of a daemon's mappings into the store."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from millstream.contract.errors import StateUnavailable
from millstream.contract.state import MappingStatus, StateStore

logger = logging.getLogger(__name__)


class Counters:
    """Used by one daemon. No failure to write is a reason to stop: it is said once, until one succeeds."""

    def __init__(self, store: StateStore, owner: str) -> None:
        self._store = store
        self._owner = owner
        self._lost = False

    async def write(self, statuses: Sequence[MappingStatus]) -> None:
        """Write what has changed."""
        lost, self._lost = self._lost, True
        try:
            await self._store.put_status(self._owner, statuses)
            self._lost = False
        except StateUnavailable as unavailable:
            if not lost:
                logger.warning("counters not written", extra={"why": str(unavailable)})
        except Exception:  # a text that a store cannot hold must not end all mappings
            if not lost:
                logger.exception("counters not written")
