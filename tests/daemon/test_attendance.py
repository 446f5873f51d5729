"""A mapping that a file declares no more is kept while others run it, and for a day."""

from __future__ import annotations

import asyncio

from millstream.daemon.attendance import LASTS_S, SECOND_LOOK_S, Retirement
from tests.clock import VirtualClock
from tests.contract.store_values import ROW
from tests.stream_fakes import MemoryStore


async def test_a_mapping_whose_other_daemon_was_killed_is_retired_once_that_one_has_been_silent() -> None:
    clock = VirtualClock()
    store = MemoryStore(clock)
    await store.put_mapping(ROW)
    await store.attend("killed", [ROW.uuid], LASTS_S)
    retirement = Retirement(ROW.app, "me", store, clock)
    await retirement.look(set())
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(retirement.keep(set()))
        assert store.declared[ROW.uuid].retired_at is None
        await clock.advance(SECOND_LOOK_S)
        assert store.declared[ROW.uuid].retired_at == clock.now()
        keeping.cancel()
