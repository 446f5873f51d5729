"""What every state store must do. A store's test module subclasses `StoreKit` and says how to open one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from millstream.contract.errors import LeaseLost
from millstream.contract.state import MappingRow, MappingStatus, StateStore
from tests.contract.clock_kit import ClockKit
from tests.contract.identity_kit import IdentityKit
from tests.contract.lease_kit import LeaseKit
from tests.contract.store_values import (
    LONG_S,
    OTHER,
    OWNER,
    ROW,
    SHORT_S,
    STATUS,
    Opens,
    checkpoint,
    lease,
    taken,
    until,
)


class StoreKit(LeaseKit, IdentityKit, ClockKit):
    """The suite; `make` and `set_clock` are what a subclass gives."""

    def make(self, folder: Path) -> StateStore:
        """A store whose state lies in `folder`, made on first use."""
        raise NotImplementedError

    @pytest.fixture
    def opens(self, tmp_path: Path) -> Opens:
        """Opens the same state anew at each call."""

        @asynccontextmanager
        async def opened() -> AsyncIterator[StateStore]:
            store = self.make(tmp_path)
            try:
                yield store
            finally:
                await store.aclose()

        return opened

    async def test_a_new_store_is_empty(self, opens: Opens) -> None:
        async with opens() as store:
            assert list(await store.mappings()) == []
            assert list(await store.statuses(OWNER)) == []
            assert await store.cursor(lease()) is None

    async def test_a_mapping_outlives_the_store_object(self, opens: Opens) -> None:
        async with opens() as store:
            assert await store.put_mapping(ROW) == ROW
            await store.put_mapping(OTHER)
        async with opens() as store:
            assert sorted(await store.mappings(), key=lambda row: row.uuid) == [ROW, OTHER]

    async def test_a_mapping_declared_again_keeps_its_first_uuid(self, opens: Opens) -> None:
        again = MappingRow("new", "shop", "on_order", "sqs", "orders", enabled=False, last_modified=2000.0)
        kept = MappingRow("u1", "shop", "on_order", "sqs", "orders", enabled=False, last_modified=2000.0)
        async with opens() as store:
            await store.put_mapping(ROW)
            assert await store.put_mapping(again) == kept
            assert list(await store.mappings()) == [kept]

    @pytest.mark.parametrize("field", ["app", "function", "kind", "source"])
    async def test_mappings_differ_by_app_function_kind_and_source(self, opens: Opens, field: str) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            other: dict[str, Any] = {"uuid": "u9", field: "another"}
            await store.put_mapping(replace(ROW, **other))
            assert len(await store.mappings()) == 2

    async def test_the_newest_status_replaces_the_one_before(self, opens: Opens) -> None:
        older = MappingStatus("u1", "Creating")
        async with opens() as store:
            await store.put_mapping(ROW)
            await store.put_status(OWNER, [older])
            await store.put_status(OWNER, [STATUS])
        async with opens() as store:
            assert list(await store.statuses(OWNER)) == [STATUS]

    async def test_statuses_of_many_mappings_are_written_at_once(self, opens: Opens) -> None:
        other = MappingStatus("u2", "Disabled")
        async with opens() as store:
            await store.put_mapping(ROW)
            await store.put_mapping(OTHER)
            await store.put_status(OWNER, [STATUS, other])
            await store.put_status(OWNER, [])
            assert sorted(await store.statuses(OWNER), key=lambda status: status.uuid) == [STATUS, other]

    async def test_a_deleted_mapping_is_forgotten_with_all_that_is_kept_of_it(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            await store.put_mapping(OTHER)
            await store.put_status(OWNER, [STATUS])
            await store.announce("u1", OWNER, LONG_S)
            await store.commit(await taken(store), checkpoint("7"))
            await store.delete_mapping("u1")
            await store.delete_mapping("never-there")
            assert list(await store.mappings()) == [OTHER]
            assert list(await store.statuses(OWNER)) == []
            assert list(await store.partitions("u1")) == []
            assert list(await store.announce("u1", "daemon-2", 0.0)) == []
            assert await store.cursor(lease()) is None

    async def test_a_deleted_mapping_does_not_come_back_by_a_late_write(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            held = await taken(store)
            await store.delete_mapping("u1")
            await store.put_status(OWNER, [STATUS])
            with pytest.raises(LeaseLost):
                await store.commit(held, checkpoint("7"))
            with pytest.raises(LeaseLost):
                await store.started_at("u1", 5.0)
            assert list(await store.renew([held], LONG_S)) == []
            assert await store.take("u1", "p", OWNER, LONG_S) is None
            assert list(await store.announce("u1", OWNER, LONG_S)) == []
            await store.release(held, ended=True)
            assert list(await store.statuses(OWNER)) == []
            assert list(await store.partitions("u1")) == []

    async def test_each_daemon_has_its_own_statuses(self, opens: Opens) -> None:
        theirs = MappingStatus("u1", "Stopped", iterator_age_s=None, partitions=None)
        async with opens() as store:
            await store.put_mapping(ROW)
            await store.put_status(OWNER, [STATUS])
            await store.put_status("daemon-2", [theirs])
            assert list(await store.statuses(OWNER)) == [STATUS]
            assert list(await store.statuses("daemon-2")) == [theirs]
            assert list(await store.statuses("daemon-3")) == []

    async def test_the_first_start_of_a_mapping_is_kept(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            await store.put_mapping(OTHER)
            assert await store.started_at("u1", 1700000000.25) == 1700000000.25
            await store.put_mapping(ROW)
        async with opens() as store:
            assert await store.started_at("u1", 1800000000.0) == 1700000000.25
            assert await store.started_at("u2", 5.0) == 5.0

    async def test_a_daemon_that_announces_itself_sees_the_others(self, opens: Opens) -> None:
        async with opens() as store, opens() as other:
            await store.put_mapping(ROW)
            await store.put_mapping(OTHER)
            assert list(await store.announce("u1", "a", LONG_S)) == ["a"]
            assert sorted(await other.announce("u1", "b", LONG_S)) == ["a", "b"]
            assert sorted(await store.announce("u1", "a", LONG_S)) == ["a", "b"]
            assert list(await store.announce("u2", "c", LONG_S)) == ["c"]

    async def test_a_daemon_that_leaves_is_gone_at_once(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            await store.announce("u1", "a", LONG_S)
            await store.announce("u1", "b", LONG_S)
            assert list(await store.announce("u1", "a", 0.0)) == ["b"]
            assert list(await store.announce("u1", "b", LONG_S)) == ["b"]

    async def test_a_daemon_that_fell_silent_is_gone_once_its_time_is_over(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            await store.announce("u1", "b", SHORT_S)

            async def alone() -> bool:
                return list(await store.announce("u1", "a", LONG_S)) == ["a"]

            await until(alone)

    async def test_calls_may_overlap(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)

            async def read(name: str) -> None:
                await store.commit(await taken(store, name), checkpoint(name, name))

            async with asyncio.TaskGroup() as group:
                for number in range(50):
                    group.create_task(read(f"p{number}"))
                    group.create_task(store.put_status(OWNER, [STATUS]))
            assert all(row.position == row.partition for row in await store.partitions("u1"))

    async def test_a_cancelled_call_does_no_harm_to_the_next(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            for _ in range(10):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0):
                        await store.take("u1", "p", OWNER, LONG_S)
            assert await store.take("u1", "p", OWNER, LONG_S) is not None

    async def test_closing_twice_does_no_harm(self, opens: Opens) -> None:
        async with opens() as store:
            await store.mappings()
            await store.aclose()
