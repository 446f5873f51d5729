"""Writes the cursors of partitions that are read together; most often one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from millstream.contract.clock import Clock
from millstream.contract.errors import StateUnavailable
from millstream.contract.records import Checkpoint
from millstream.contract.state import Lease

logger = logging.getLogger(__name__)

BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 5.0
"""Waits between tries of a store that cannot be written: the first, doubled up to the longest."""


class Cursors(Protocol):
    """Where cursors are kept: a state store, or a broker that keeps those of its consumer groups."""

    async def commit(self, lease: Lease, checkpoint: Checkpoint) -> None:
        """Move the cursor.

        Raises:
            LeaseLost: the lease is another's by now.
            StateUnavailable: it cannot be written now.
        """


class Committer:
    """Writes each partition's newest checkpoint, one write at a time; older ones it skips.

    Lanes finish at once, and a store may answer out of step: two writes in
    flight could leave the older cursor behind. So there is never more than one.
    """

    def __init__(self, cursors: Cursors, leases: Sequence[Lease], clock: Clock) -> None:
        self._cursors = cursors
        self._leases = {lease.partition: lease for lease in leases}
        self._clock = clock
        self._newest: dict[str, Checkpoint] = {}
        self._wake = asyncio.Event()
        self._closed = False

    def offer(self, checkpoint: Checkpoint) -> None:
        """Have a checkpoint written, unless a newer one comes before its turn."""
        self._newest[checkpoint.partition] = checkpoint
        self._wake.set()

    def close(self) -> None:
        """Let `run` return once the newest offer is written."""
        self._closed = True
        self._wake.set()

    async def run(self) -> None:
        """Write until closed; a store that does not answer is tried again.

        Raises:
            LeaseLost: another daemon owns the partition.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(StateUnavailable),
            wait=wait_exponential_jitter(multiplier=BACKOFF_FIRST_S, max=BACKOFF_MAX_S),
            sleep=self._clock.sleep,
        )
        while True:
            await self._wake.wait()
            self._wake.clear()
            newest, self._newest = self._newest, {}
            for partition, checkpoint in newest.items():
                lease = self._leases[partition]
                try:
                    await self._cursors.commit(lease, checkpoint)
                except StateUnavailable as unavailable:
                    self._say(lease, unavailable)
                    await self._clock.sleep(BACKOFF_FIRST_S)
                    await retrying(self._cursors.commit, lease, checkpoint)
            if not newest and self._closed:
                return
            if self._closed:
                self._wake.set()

    def _say(self, lease: Lease, why: StateUnavailable) -> None:
        """Once, until it works again."""
        extra = {"mapping": lease.mapping, "partition": lease.partition, "why": str(why)}
        logger.warning("cursor not written, retrying", extra=extra)
