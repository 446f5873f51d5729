"""When a batch is full, when it is due, and what does not fit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from millstream.contract.ports import BatchLimits
from millstream.mappings.batcher import ENVELOPE_BYTES, Batcher, split
from tests.fakes import record


def test_a_batch_is_full_at_its_size() -> None:
    batcher = Batcher(BatchLimits(3, 10.0), opened_at=0.0)
    rest = batcher.add([record(n) for n in range(5)], now=1.0)
    assert batcher.full
    assert [r.item_id for r in rest] == ["3", "4"]


def test_a_batch_without_records_is_never_due() -> None:
    assert Batcher(BatchLimits(3, 10.0), opened_at=0.0).due_at is None


def test_a_window_opens_with_its_batch() -> None:
    batcher = Batcher(BatchLimits(3, 10.0), opened_at=100.0)
    batcher.add([record(1)], now=104.0)
    assert batcher.due_at == 110.0


def test_a_window_that_passed_without_records_opens_again_with_the_first() -> None:
    batcher = Batcher(BatchLimits(3, 10.0), opened_at=100.0)
    batcher.add([record(1)], now=150.0)
    batcher.add([record(2)], now=155.0)
    assert batcher.due_at == 160.0


def test_a_window_may_open_with_each_batches_first_record() -> None:
    batcher = Batcher(BatchLimits(3, 10.0, from_first=True), opened_at=100.0)
    batcher.add([record(1)], now=104.0)
    batcher.add([record(2)], now=109.0)
    assert batcher.due_at == 114.0


def test_a_batch_closes_before_it_passes_the_payload_limit() -> None:
    batcher = Batcher(BatchLimits(100, 10.0), opened_at=0.0, max_bytes=ENVELOPE_BYTES + 250)
    rest = batcher.add([record(n, size=80) for n in range(4)], now=0.0)
    assert batcher.full
    assert [r.item_id for r in rest] == ["2", "3"]


def test_a_record_beyond_the_limit_is_a_batch_of_its_own() -> None:
    batcher = Batcher(BatchLimits(100, 10.0), opened_at=0.0, max_bytes=ENVELOPE_BYTES + 10)
    rest = batcher.add([record(1, size=80), record(2)], now=0.0)
    assert len(batcher) == 1
    assert [r.item_id for r in rest] == ["2"]


@given(st.lists(st.integers(0, 200), max_size=60), st.integers(1, 12))
def test_split_keeps_every_record_in_order_and_each_batch_within_its_limits(
    sizes: list[int], size: int
) -> None:
    records = [record(n, size=s) for n, s in enumerate(sizes)]
    batches = split(records, BatchLimits(size, 0.0))
    assert [r for batch in batches for r in batch.records] == records
    assert all(len(batch.records) <= size for batch in batches)
