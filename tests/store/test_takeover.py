"""When a daemon has what belonged to another, by its own monotonic clock: daemons on one database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from millstream.store.sql_store import SqlStore
from millstream.store.sqlite import SqliteDatabase
from tests.clock import VirtualClock
from tests.contract.store_values import OWNER, ROW, taken

LASTS_S = 7.0


class Fleet:
    """Stores of daemons that came up on one database at different times."""

    def __init__(self, folder: Path) -> None:
        self.clock = VirtualClock()
        self._path = folder / "state.db"

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[SqlStore]:
        store = SqlStore(SqliteDatabase(self._path, writable=True), self.clock.monotonic)
        try:
            yield store
        finally:
            await store.aclose()


async def held_by(store: SqlStore) -> list[tuple[str | None, float | None]]:
    return [(row.owner, row.free_in_s) for row in await store.partitions("u1")]


async def test_a_daemon_that_has_just_come_up_waits_for_one_length_of_what_others_left(
    tmp_path: Path,
) -> None:
    fleet = Fleet(tmp_path)
    async with fleet.daemon() as dead:
        await dead.put_mapping(ROW)
        await taken(dead, ttl_s=LASTS_S)
        await dead.announce("u1", OWNER, LASTS_S)
        await dead.attend(OWNER, ["u1"], LASTS_S)
    fleet.clock.freeze(3600.0)
    async with fleet.daemon() as store:
        assert list(await store.announce("u1", "next", LASTS_S)) == [OWNER, "next"]
        assert list(await store.attendants("u1")) == [OWNER]
        assert await held_by(store) == [(OWNER, LASTS_S)]
        assert await store.take("u1", "p", "next", LASTS_S) is None
        fleet.clock.freeze(LASTS_S - 0.5)
        assert await held_by(store) == [(OWNER, 0.5)]
        assert await store.take("u1", "p", "next", LASTS_S) is None
        fleet.clock.freeze(0.5)
        assert list(await store.announce("u1", "next", LASTS_S)) == ["next"]
        assert list(await store.attendants("u1")) == []
        assert await held_by(store) == [(None, None)]
        assert (await taken(store, owner="next", ttl_s=LASTS_S)).epoch == 2
        assert await held_by(store) == [("next", LASTS_S)]


async def test_a_lease_that_is_renewed_between_the_look_and_the_taking_is_not_taken(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    async with fleet.daemon() as slow, fleet.daemon() as store:
        await slow.put_mapping(ROW)
        held = await taken(slow, ttl_s=LASTS_S)
        await store.partitions("u1")
        fleet.clock.freeze(LASTS_S)
        assert await held_by(store) == [(None, None)]
        assert list(await slow.renew([held], LASTS_S)) == [held]
        assert await store.take("u1", "p", "daemon-2", LASTS_S) is None
        assert await held_by(store) == [(OWNER, LASTS_S)]


async def test_an_announcement_that_is_renewed_as_it_is_struck_off_stays(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    async with fleet.daemon() as slow, fleet.daemon() as store:
        await slow.put_mapping(ROW)
        for announce in (slow.announce, store.announce):
            await announce("u1", OWNER, LASTS_S)
        fleet.clock.freeze(LASTS_S)
        await slow.announce("u1", OWNER, LASTS_S)
        assert list(await store.announce("u1", "daemon-2", 0.0)) == [OWNER]


async def test_what_is_released_or_a_predecessors_is_had_at_once(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    async with fleet.daemon() as store:
        await store.put_mapping(ROW)
        await store.release(await taken(store, "released", ttl_s=LASTS_S))
        await taken(store, "left", ttl_s=LASTS_S)
        await store.announce("u1", OWNER, LASTS_S)
    async with fleet.daemon() as store:
        await store.succeed(OWNER, "next")
        assert list(await store.announce("u1", "next", LASTS_S)) == ["next"]
        assert await taken(store, "released", owner="next")
        assert await taken(store, "left", owner="next")


async def test_a_daemons_own_lease_is_its_own_however_late_it_is(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    async with fleet.daemon() as store, fleet.daemon() as other:
        await store.put_mapping(ROW)
        held = await taken(store, ttl_s=LASTS_S)
        fleet.clock.freeze(3600.0)
        assert list(await store.renew([held], LASTS_S)) == [held]
        assert await other.take("u1", "p", "daemon-2", LASTS_S) is None
        assert await held_by(store) == [(OWNER, LASTS_S)]
