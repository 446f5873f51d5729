"""When a batch is full, when it is due, and what does not fit."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from millstream.contract.functions import MAX_PAYLOAD_BYTES
from millstream.contract.ports import BatchLimits
from millstream.contract.records import Record
from millstream.mappings.batcher import Batcher, room_bytes, split
from tests.fakes import record

ROOM = 1000


def test_a_batch_is_full_at_its_size() -> None:
    batcher = Batcher(BatchLimits(3, 10.0), opened_at=0.0, room_bytes=ROOM)
    rest = batcher.add([record(n) for n in range(5)], now=1.0)
    assert batcher.full
    assert [r.item_id for r in rest] == ["3", "4"]


def test_a_batch_without_records_is_never_due() -> None:
    assert Batcher(BatchLimits(3, 10.0), opened_at=0.0, room_bytes=ROOM).due_at is None


def test_a_window_opens_with_its_batch() -> None:
    batcher = Batcher(BatchLimits(3, 10.0), opened_at=100.0, room_bytes=ROOM)
    batcher.add([record(1)], now=104.0)
    assert batcher.due_at == 110.0


def test_a_window_that_passed_without_records_opens_again_with_the_first() -> None:
    batcher = Batcher(BatchLimits(3, 10.0), opened_at=100.0, room_bytes=ROOM)
    batcher.add([record(1)], now=150.0)
    batcher.add([record(2)], now=155.0)
    assert batcher.due_at == 160.0


def test_a_window_may_open_with_each_batches_first_record() -> None:
    batcher = Batcher(BatchLimits(3, 10.0, from_first=True), opened_at=100.0, room_bytes=ROOM)
    batcher.add([record(1)], now=104.0)
    batcher.add([record(2)], now=109.0)
    assert batcher.due_at == 114.0


def test_a_batch_closes_before_it_passes_the_payload_limit() -> None:
    batcher = Batcher(BatchLimits(100, 10.0), opened_at=0.0, room_bytes=250)
    rest = batcher.add([record(n, size=80) for n in range(4)], now=0.0)
    assert batcher.full
    assert [r.item_id for r in rest] == ["2", "3"]


def test_a_record_beyond_the_limit_is_a_batch_of_its_own() -> None:
    batcher = Batcher(BatchLimits(100, 10.0), opened_at=0.0, room_bytes=10)
    rest = batcher.add([record(1, size=80), record(2)], now=0.0)
    assert len(batcher) == 1
    assert [r.item_id for r in rest] == ["2"]


@given(st.lists(st.integers(0, 200), max_size=60), st.integers(1, 12))
def test_split_keeps_every_record_in_order_and_each_batch_within_its_limits(
    sizes: list[int], size: int
) -> None:
    records = [record(n, size=s) for n, s in enumerate(sizes)]
    batches = split(records, BatchLimits(size, 0.0), ROOM)
    assert [r for batch in batches for r in batch.records] == records
    assert all(len(batch.records) <= size for batch in batches)
    assert all(sum(len(r.event) + 1 for r in b.records) <= ROOM for b in batches if len(b.records) > 1)


@given(st.lists(st.text(max_size=300), min_size=1, max_size=30, unique=True))
def test_the_room_is_what_the_triggers_own_envelope_leaves(partitions: list[str]) -> None:
    def envelope(records: Sequence[Record]) -> bytes:
        return b"".join(b"<%b:%b>" % (r.partition.encode(), r.event) for r in records)

    room = room_bytes(envelope, partitions)
    filled = [record(n, size=n) for n in range(len(partitions))]
    event = envelope([structs.replace(r, partition=p) for r, p in zip(filled, partitions, strict=True)])
    assert len(event) - sum(len(r.event) for r in filled) == MAX_PAYLOAD_BYTES - room
