"""Proofs and checkpoints, for any order in which batches are resolved."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contract.records import Batch, CursorTracker, Done, Returned, resolve, resolve_all
from tests.fakes import record


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.randoms())
def test_a_checkpoint_never_passes_an_unresolved_record(sizes: list[int], rnd: random.Random) -> None:
    records = [record(n) for n in range(sum(sizes))]
    tracker = CursorTracker("q")
    tracker.admit(records)
    taken = iter(records)
    batches = [Batch(tuple(next(taken) for _ in range(size))) for size in sizes]
    rnd.shuffle(batches)
    resolved: set[int] = set()
    last = -1
    for batch in batches:
        checkpoint = tracker.complete(resolve_all(batch, Done()))
        resolved |= {int(r.position) for r in batch.records}
        if checkpoint is not None:
            assert int(checkpoint.position) > last
            last = int(checkpoint.position)
        assert all(n in resolved for n in range(last + 1))
        assert last + 1 not in resolved or last + 1 == len(records)
    assert last == len(records) - 1
    assert tracker.in_flight == 0


def test_a_stream_takes_nothing_back() -> None:
    tracker = CursorTracker("q")
    batch = Batch((record(1),))
    tracker.admit(batch.records)
    with pytest.raises(ValueError, match="take a record back"):
        tracker.complete(resolve_all(batch, Returned()))


def test_each_record_has_its_verdict_and_no_other_one() -> None:
    batch = Batch((record(1), record(2)))
    with pytest.raises(ValueError, match="differ"):
        resolve(batch, {"1": Done()})
    with pytest.raises(ValueError, match="differ"):
        resolve(batch, {"1": Done(), "2": Done(), "3": Done()})


def test_a_batch_is_never_empty() -> None:
    with pytest.raises(ValueError, match="at least one record"):
        Batch(())
