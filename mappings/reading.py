"""Reads leased partitions until they end, whatever comes in between."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from millstream.contract.clock import Clock
from millstream.contract.errors import (
    InvalidConfiguration,
    LeaseLost,
    PartitionGone,
    SourceUnavailable,
    StateUnavailable,
)
from millstream.contract.ports import Observer
from millstream.mappings.stream_decide import delay_s

logger = logging.getLogger(__name__)

RESTART_S = 5.0
"""Pause after a fault of our own."""


async def read_on(
    read: Callable[[], Awaitable[bool]],
    stopping: Callable[[], bool],
    mapping: str,
    partition: str,
    observer: Observer,
    clock: Clock,
) -> bool:
    """Call `read`, which opens a partition and runs it, until that is over. True: the partition has ended.

    Raises:
        LeaseLost: another daemon has it.
        InvalidConfiguration: its source is gone.
    """
    about = {"mapping": mapping, "partition": partition}
    waits = 0
    while not stopping():
        try:
            return await read()
        except PartitionGone as gone:
            logger.warning("partition gone, what was left unread is lost", extra={**about, "why": str(gone)})
            return True
        except (SourceUnavailable, StateUnavailable) as unavailable:
            observer.poll_failed(mapping, str(unavailable))
            waits += 1
            await clock.sleep(delay_s(waits))
        except (LeaseLost, InvalidConfiguration):
            raise
        except Exception:
            logger.exception("partition failed, it is read again", extra=about)
            await clock.sleep(RESTART_S)
    return False
