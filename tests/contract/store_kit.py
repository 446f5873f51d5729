"""What every state store must do. A store's test module subclasses `StoreKit` and says how to open one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from millstream.contract.errors import LeaseLost
from millstream.contract.ports import Lease, MappingRow, MappingStatus, StateStore
from millstream.contract.records import (
    Batch,
    Checkpoint,
    CursorTracker,
    Done,
    Position,
    Record,
    resolve_all,
)

ROW = MappingRow("u1", "shop", "on_order", "sqs", "orders", enabled=True, last_modified=1000.5)
OTHER = MappingRow("u2", "shop", "on_paid", "sqs", "paid", enabled=False, last_modified=1001.0)
STATUS = MappingStatus("u1", "Enabled", "USER_INITIATED", "OK", 1002.25, 9, 1, 5, 2, 1, 4, 3, 2)

Opens: TypeAlias = Callable[[], AbstractAsyncContextManager[StateStore]]


def checkpoint(position: str, partition: str = "p") -> Checkpoint:
    """A true one, from records that were resolved."""
    record = Record(
        partition=partition,
        position=Position(position),
        item_id=position,
        event=b"{}",
        arrived_at=0.0,
        received_at=0.0,
    )
    tracker = CursorTracker(partition)
    tracker.admit([record])
    made = tracker.complete(resolve_all(Batch((record,)), Done()))
    assert made is not None
    return made


def lease(epoch: int = 1, mapping: str = "u1", partition: str = "p") -> Lease:
    return Lease(mapping, partition, f"daemon-{epoch}", epoch)


class StoreKit:
    """The suite; `make` is what a subclass gives."""

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
            assert list(await store.statuses()) == []
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
        key = {"app": "shop", "function": "on_order", "kind": "sqs", "source": "orders"} | {field: "another"}
        async with opens() as store:
            await store.put_mapping(ROW)
            await store.put_mapping(MappingRow("u9", **key, enabled=True, last_modified=0.0))
            assert len(await store.mappings()) == 2

    async def test_the_newest_status_replaces_the_one_before(self, opens: Opens) -> None:
        older = MappingStatus("u1", "Creating")
        async with opens() as store:
            await store.put_mapping(ROW)
            await store.put_status([older])
            await store.put_status([STATUS])
        async with opens() as store:
            assert list(await store.statuses()) == [STATUS]

    async def test_statuses_of_many_mappings_are_written_at_once(self, opens: Opens) -> None:
        other = MappingStatus("u2", "Disabled")
        async with opens() as store:
            await store.put_mapping(ROW)
            await store.put_mapping(OTHER)
            await store.put_status([STATUS, other])
            await store.put_status([])
            assert sorted(await store.statuses(), key=lambda status: status.uuid) == [STATUS, other]

    async def test_a_deleted_mapping_is_forgotten_with_its_status_and_cursors(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            await store.put_mapping(OTHER)
            await store.put_status([STATUS])
            await store.commit(lease(), checkpoint("7"))
            await store.delete_mapping("u1")
            await store.delete_mapping("never-there")
            assert list(await store.mappings()) == [OTHER]
            assert list(await store.statuses()) == []
            assert await store.cursor(lease()) is None

    async def test_a_deleted_mapping_does_not_come_back_by_a_late_write(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            await store.delete_mapping("u1")
            await store.put_status([STATUS])
            with pytest.raises(LeaseLost):
                await store.commit(lease(), checkpoint("7"))
            assert list(await store.statuses()) == []
            assert await store.cursor(lease()) is None

    async def test_a_cursor_outlives_the_store_object(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            await store.commit(lease(), checkpoint("7"))
            await store.commit(lease(), checkpoint("10"))
        async with opens() as store:
            assert await store.cursor(lease()) == "10"

    async def test_each_partition_of_each_mapping_has_its_own_cursor(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            await store.put_mapping(OTHER)
            await store.commit(lease(), checkpoint("1"))
            await store.commit(lease(partition="q"), checkpoint("2", "q"))
            await store.commit(lease(mapping="u2"), checkpoint("3"))
            assert await store.cursor(lease()) == "1"
            assert await store.cursor(lease(partition="q")) == "2"
            assert await store.cursor(lease(mapping="u2")) == "3"

    async def test_a_stale_owner_writes_nothing(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            await store.commit(lease(epoch=1), checkpoint("5"))
            await store.commit(lease(epoch=2), checkpoint("6"))
            with pytest.raises(LeaseLost):
                await store.commit(lease(epoch=1), checkpoint("99"))
            assert await store.cursor(lease(epoch=2)) == "6"

    async def test_a_checkpoint_of_another_partition_is_refused(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            with pytest.raises(ValueError, match=r"partition|lease"):
                await store.commit(lease(partition="p"), checkpoint("5", "q"))

    async def test_calls_may_overlap(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            async with asyncio.TaskGroup() as group:
                for number in range(50):
                    name = f"p{number}"
                    group.create_task(store.commit(lease(partition=name), checkpoint(str(number), name)))
                    group.create_task(store.put_status([STATUS]))
            for number in range(50):
                assert await store.cursor(lease(partition=f"p{number}")) == str(number)

    async def test_closing_twice_does_no_harm(self, opens: Opens) -> None:
        async with opens() as store:
            await store.mappings()
            await store.aclose()
