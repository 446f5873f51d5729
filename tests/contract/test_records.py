"""Proofs and checkpoints, for any order in which batches are resolved."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

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
        checkpoints = tracker.complete(resolve_all(batch, Done()))
        resolved |= {int(r.position) for r in batch.records}
        for checkpoint in checkpoints:
            assert int(checkpoint.position) > last
            last = int(checkpoint.position)
        assert all(n in resolved for n in range(last + 1))
        assert last + 1 not in resolved or last + 1 == len(records)
    assert last == len(records) - 1
    assert tracker.in_flight == 0


def test_each_partition_of_a_batch_has_a_checkpoint_of_its_own() -> None:
    tracker = CursorTracker("a", "b")
    of_a = [structs.replace(record(n), partition="a") for n in range(3)]
    of_b = [structs.replace(record(n), partition="b") for n in range(2)]
    tracker.admit([*of_a, *of_b])
    first = tracker.complete(resolve_all(Batch((of_a[1], *of_b)), Done()))
    assert [(checkpoint.partition, checkpoint.position) for checkpoint in first] == [("b", "1")]
    rest = tracker.complete(resolve_all(Batch((of_a[0], of_a[2])), Done()))
    assert [(checkpoint.partition, checkpoint.position) for checkpoint in rest] == [("a", "2")]
    assert tracker.in_flight == 0


@pytest.mark.parametrize("twice", [[0, 1, 0], [1, 1]])
def test_a_position_is_admitted_once(twice: list[int]) -> None:
    tracker = CursorTracker("q")
    tracker.admit([record(2)])
    with pytest.raises(ValueError, match=f"{twice[-1]} admitted twice"):
        tracker.admit([record(n) for n in twice])
    with pytest.raises(ValueError, match="2 admitted twice"):
        tracker.admit([record(3), record(2)])


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
