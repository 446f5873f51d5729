"""What becomes of a queue's batch: the table of AWS's partial batch responses, and no record lost."""

from __future__ import annotations

import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contract.functions import MAX_RESPONSE_BYTES, FunctionFailed, Success
from millstream.contract.ports import QueuePolicy
from millstream.contract.records import Batch, Reason
from millstream.mappings.answers import failed_items, plain, window_state
from millstream.mappings.decide import GiveUp, Return, Settle, decide
from tests.fakes import FAILURE, failures, record

BATCH = Batch((record(1), record(2), record(3)))
ALL = frozenset({"1", "2", "3"})


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        (b'{"batchItemFailures": []}', frozenset()),
        (b'{"batchItemFailures": null}', frozenset()),
        (b"{}", frozenset()),
        (b"null", frozenset()),
        (b"[]", frozenset()),
        (b'""', frozenset()),
        (b'{"statusCode": 200}', frozenset()),
        (b'{"batchItemFailures": [{"itemIdentifier": "2"}]}', frozenset({"2"})),
        (b'{"batchItemFailures": [{"itemIdentifier": "2"}, {"itemIdentifier": "2"}]}', frozenset({"2"})),
        (b"not json", ALL),
        (b"\xff\xfe", ALL),
        (b'"text"', ALL),
        (b"17", ALL),
        pytest.param(b"[" * 100_000, ALL, id="deep"),
        (b'{"batchItemFailures": "2"}', ALL),
        (b'{"batchItemFailures": ["2"]}', ALL),
        (b'{"batchItemFailures": [{"itemIdentifier": ""}]}', ALL),
        (b'{"batchItemFailures": [{"itemIdentifier": null}]}', ALL),
        (b'{"batchItemFailures": [{"itemIdentifier": 2}]}', ALL),
        (b'{"batchItemFailures": [{"foo": "notvalid"}]}', ALL),
        (b'{"batchItemFailures": [{"itemIdentifier": "nobody"}]}', ALL),
        (b'{"batchItemFailures": [{"itemIdentifier": "2"}, {"itemIdentifier": "nobody"}]}', ALL),
    ],
)
def test_an_answer_names_the_failed_records(answer: bytes, failed: frozenset[str]) -> None:
    assert failed_items(BATCH, answer) == failed


@pytest.mark.parametrize("entry", [b"1,", b"[],", b'"a",', b"1e5,"])
@pytest.mark.parametrize("last", [b"1", b"1e400"], ids=["", "of a kind that msgspec refuses"])
def test_nothing_is_built_of_millions_of_entries_that_are_none(entry: bytes, last: bytes) -> None:
    failures = b'{"batchItemFailures":[' + entry * (MAX_RESPONSE_BYTES // len(entry) - 20) + last + b"]}"
    tracemalloc.start()
    try:
        assert failed_items(BATCH, failures) == ALL
        assert tracemalloc.get_traced_memory()[1] < 3 * len(failures)
    finally:
        tracemalloc.stop()


def test_an_identifier_that_is_larger_than_any_is_none() -> None:
    answer = b'{"batchItemFailures":[{"itemIdentifier":[' + b"1," * 1_000_000 + b"1]}]}"
    tracemalloc.start()
    try:
        assert failed_items(BATCH, answer) == ALL
        assert tracemalloc.get_traced_memory()[1] < 5 * len(answer)
    finally:
        tracemalloc.stop()


async def test_what_msgspec_refuses_beside_the_identifiers_spoils_nothing() -> None:
    answer = b'{"batchItemFailures": [{"itemIdentifier": "2", "why": "\\ud83d", "at": 1e400}]}'
    assert failed_items(BATCH, await plain(answer)) == frozenset({"2"})


async def test_a_state_that_msgspec_refuses_is_handed_on_as_json() -> None:
    state = window_state(await plain(b'{"state": {"why": "\\ud83d", "at": 1e400}}'))
    assert state == b'{"why": "\\ufffd", "at": 1e400}'


def test_without_item_failures_the_answer_is_not_read() -> None:
    assert decide(BATCH, failures(2), QueuePolicy()) == [Settle(BATCH.records)]


def test_a_failed_function_returns_the_whole_batch() -> None:
    assert decide(BATCH, FAILURE, QueuePolicy(item_failures=True)) == [Return(BATCH.records)]


def test_only_what_is_listed_is_returned() -> None:
    steps = decide(BATCH, failures(2), QueuePolicy(item_failures=True))
    assert steps == [Settle((BATCH.records[0], BATCH.records[2])), Return((BATCH.records[1],))]


def test_a_record_is_given_up_after_its_retries() -> None:
    batch = Batch((record(1, count=3), record(2, count=2)))
    steps = decide(batch, FAILURE, QueuePolicy(max_retries=2))
    assert steps == [
        GiveUp((batch.records[0],), Reason.RETRIES_EXHAUSTED),
        Return((batch.records[1],)),
    ]


def test_no_retries_means_one_attempt() -> None:
    assert decide(BATCH, FAILURE, QueuePolicy(max_retries=0)) == [
        GiveUp(BATCH.records, Reason.RETRIES_EXHAUSTED)
    ]


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=30),
    st.sets(st.integers(0, 40)),
    st.one_of(st.none(), st.integers(0, 5)),
    st.booleans(),
    st.booleans(),
)
def test_decide_loses_no_record_and_settles_none_that_failed(
    counts: list[int], failed: set[int], max_retries: int | None, item_failures: bool, raised: bool
) -> None:
    batch = Batch(tuple(record(n, count=c) for n, c in enumerate(counts)))
    named = [{"itemIdentifier": str(n)} for n in failed]
    answer = msgspec.json.encode({"batchItemFailures": named})
    outcome: Success | FunctionFailed = FAILURE if raised else Success(answer, "r")
    steps = decide(batch, outcome, QueuePolicy(item_failures=item_failures, max_retries=max_retries))
    assert sorted(r.item_id for s in steps for r in s.records) == sorted(r.item_id for r in batch.records)
    assert all(s.records for s in steps)
    if raised:
        assert not any(isinstance(s, Settle) for s in steps)
