"""Tumbling windows in the stream runner: state, final calls, restarts, early ends."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from millstream.contract.functions import Outcome, Success
from millstream.contract.ports import BatchLimits
from millstream.contract.streams import StreamPolicy
from millstream.mappings.windows import MAX_STATE_BYTES
from tests.fakes import FAILURE
from tests.mappings.stream_rig import World, world
from tests.stream_fakes import stream_record

WINDOWS = StreamPolicy(tumbling_window_s=60, max_retries=1)


def counting(event: dict[str, Any]) -> Outcome:
    """Counts records in the window's state."""
    count = event["state"].get("count", 0) + len(event["Records"])
    return Success(msgspec.json.encode({"state": {"count": count}}), "r")


def finals(it: World) -> list[dict[str, Any]]:
    return [event for event in it.function.events if event["isFinalInvokeForWindow"]]


def windowed(
    *arrivals: float, size: int = 10, answer: Any = counting, policy: StreamPolicy = WINDOWS
) -> World:
    records = [stream_record(n, at=at) for n, at in enumerate(arrivals)]
    return world(*records, limits=BatchLimits(size, 0.0), policy=policy, answer=answer)


async def test_state_goes_from_batch_to_batch_and_ends_with_the_window() -> None:
    it = windowed(*[960.0 + n for n in range(25)])
    async with it.running() as rig:
        await rig.until(lambda: bool(finals(it)))
    assert [event["state"] for event in it.function.events] == [
        {},
        {"count": 10},
        {"count": 20},
        {"count": 25},
    ]
    (final,) = finals(it)
    assert final["Records"] == []
    assert final["isWindowTerminatedEarly"] is False
    assert final["window"] == {"start": "1970-01-01T00:16:00Z", "end": "1970-01-01T00:17:00Z"}


async def test_a_window_ends_by_time_only_once_its_partition_is_read_up_to_it() -> None:
    it = windowed(1000.0)
    async with it.running():
        await it.clock.advance(15.0)
        assert finals(it) == []
        await it.clock.advance(10.0)
        assert len(finals(it)) == 1


async def test_an_open_window_holds_no_more_however_many_batches_it_has() -> None:
    it = windowed(*[960.0 + n / 100 for n in range(500)], size=1)
    async with it.running() as rig:
        await rig.until(lambda: len(it.function.events) == 500)
        assert len(rig.runner._held) == 1
        assert it.cursor == -1
    assert it.cursor == -1


@pytest.mark.parametrize("lag_s", [None, 30.0])
async def test_a_window_stays_open_while_its_partition_may_hold_more_of_it(lag_s: float | None) -> None:
    it = windowed(1000.0)
    it.part.lag_s = lag_s
    async with it.running() as rig:
        await it.clock.advance(60.0)
        assert finals(it) == []
        it.stream.put(stream_record(1, at=1010.0))
        it.part.lag_s = 0.0
        await rig.until_at(1)
    (final,) = finals(it)
    assert final["state"] == {"count": 2}


async def test_records_that_the_filters_drop_end_windows_as_others_do() -> None:
    it = windowed(1000.0)
    it.filters = ({"key": ["k"]},)
    it.part.lag_s = None
    async with it.running() as rig:
        for number in range(1, 31):
            it.stream.put(stream_record(number, key="other", at=1000.0 + number))
        await it.clock.advance(2.0)
        assert len(finals(it)) == 1
        await rig.until_at(30)
    assert it.function.batches == [[0], []]


async def test_a_record_of_the_next_window_ends_the_one_before() -> None:
    it = windowed(900.0, 901.0, 960.0, 961.0, 1000.0)
    async with it.running() as rig:
        await rig.until(lambda: len(finals(it)) >= 2)
    assert it.function.batches == [[0, 1], [], [2, 3, 4], []]
    assert [event["state"] for event in finals(it)] == [{"count": 2}, {"count": 3}]


async def test_the_cursor_moves_when_the_final_call_has_succeeded() -> None:
    it = windowed(1000.0)
    async with it.running() as rig:
        await it.clock.advance(10.0)
        assert (it.function.batches, it.cursor) == ([[0]], -1)
        await rig.until_at(0)
    assert len(finals(it)) == 1


async def test_a_final_call_that_fails_holds_the_shard_until_it_succeeds() -> None:
    broken = [True]

    def answer(event: dict[str, Any]) -> Outcome:
        return FAILURE if broken[0] and event["isFinalInvokeForWindow"] else counting(event)

    it = windowed(900.0, 1000.0, answer=answer)
    async with it.running() as rig:
        await it.clock.advance(120.0)
        assert it.cursor == -1
        assert [1] not in it.function.batches
        assert 4 < len(finals(it)) < 10
        broken[0] = False
        await rig.until_at(1)


async def test_windows_over_restarts_are_counted_whole() -> None:
    it = windowed(*[900.0 + 4 * n for n in range(40)], size=5)
    for _ in range(3):
        async with it.running():
            await it.clock.advance(3.0)
    it.function.takes_s = 1.0
    async with it.running():
        await it.clock.advance(2.5)
    it.function.takes_s = 0.0
    async with it.running() as rig:
        await rig.until_at(39)
    counts: dict[str, int] = {}
    for final in finals(it):
        counts[final["window"]["start"]] = final["state"]["count"]
    assert list(counts.values()) == [15, 15, 10]


async def test_a_reply_without_state_is_retried_and_given_up() -> None:
    it = windowed(1000.0, answer=lambda event: Success(b"{}", "r"))
    async with it.running() as rig:
        await rig.until_at(0)
    assert it.failed[0]["requestContext"]["approximateInvokeCount"] == 2


async def test_a_state_over_1_mb_ends_the_window_early_and_the_rest_starts_afresh() -> None:
    def answer(event: dict[str, Any]) -> Outcome:
        large = "x" * MAX_STATE_BYTES if 0 in [r["n"] for r in event["Records"]] else ""
        return Success(msgspec.json.encode({"state": {"pad": large, "n": len(event["Records"])}}), "r")

    it = windowed(1000.0, 1001.0, size=1, answer=answer)
    async with it.running() as rig:
        await rig.until_at(1)
    early, last = finals(it)
    assert (early["isWindowTerminatedEarly"], last["isWindowTerminatedEarly"]) == (True, False)
    assert early["window"] == last["window"]
    assert it.function.events[2]["state"] == {}


async def test_a_window_is_closed_where_its_shard_ends() -> None:
    it = windowed(1000.0)
    it.part.ended = True
    async with it.running() as rig:
        await rig.until(rig.task.done, within_s=5.0)
        assert rig.task.result() is True
    assert len(finals(it)) == 1
    assert it.cursor == 0


async def test_a_shard_that_is_stopped_before_its_last_final_call_has_not_ended() -> None:
    """Were it said to have ended, nobody would ever make that call."""
    it = windowed(1000.0)
    it.part.ended = True
    it.function.takes_s = 30.0
    async with it.running() as rig:
        await rig.until(lambda: it.function.batches == [[0]])
    assert rig.task.result() is False
    assert it.cursor == -1
    async with it.running() as rig:
        await rig.until(rig.task.done)
    assert rig.task.result() is True
    assert it.function.batches == [[0], [0], []]
    assert it.cursor == 0


async def test_partial_failures_keep_the_state_that_was_returned() -> None:
    failed = [True]

    def answer(event: dict[str, Any]) -> Outcome:
        numbers = [record["n"] for record in event["Records"]]
        if 3 in numbers and failed[0]:
            failed[0] = False
            state = {"count": event["state"].get("count", 0) + 3}
            reply = {"state": state, "batchItemFailures": [{"itemIdentifier": "3"}]}
            return Success(msgspec.json.encode(reply), "r")
        return counting(event)

    policy = StreamPolicy(tumbling_window_s=60, item_failures=True)
    it = windowed(1000.0, 1001.0, 1002.0, 1003.0, 1004.0, answer=answer, policy=policy)
    async with it.running() as rig:
        await rig.until_at(4)
    assert finals(it)[0]["state"] == {"count": 5}


async def test_a_window_with_a_large_state_sends_smaller_batches_and_loses_nothing() -> None:
    """Full batches leave no room for the state of the window that they are in."""
    state = {"pad": "x" * 900_000}

    def answer(event: dict[str, Any]) -> Outcome:
        return Success(msgspec.json.encode({"state": state}), "request-1")

    it = world(
        *[stream_record(n, size=10_000, at=1000.0) for n in range(2000)],
        limits=BatchLimits(10_000, 0.0),
        policy=StreamPolicy(max_retries=0, tumbling_window_s=60),
        answer=answer,
    )
    async with it.running() as rig:
        await rig.until(lambda: len(it.function.seen) == 2000)
    assert it.function.seen == list(range(2000))
    assert it.observer.dropped == 0
    assert it.observer.failed_batches == 0


async def test_a_record_that_has_no_room_beside_the_state_ends_the_window_early() -> None:
    def answer(event: dict[str, Any]) -> Outcome:
        return Success(msgspec.json.encode({"state": {"pad": "x" * 1_000_000}}), "request-1")

    it = world(
        stream_record(0, at=1000.0),
        stream_record(1, size=6_000_000, at=1000.0),
        stream_record(2, at=1000.0),
        policy=StreamPolicy(max_retries=0, tumbling_window_s=60),
        limits=BatchLimits(1, 0.0),
        answer=answer,
    )
    async with it.running() as rig:
        await rig.until(lambda: 2 in it.function.seen)
    assert it.function.seen == [0, 1, 2]
    early = [event for event in it.function.events if event["isWindowTerminatedEarly"]]
    assert early
    assert early[0]["Records"] == []


async def test_a_state_that_no_event_can_hold_does_not_keep_the_window_from_ending(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def answer(event: dict[str, Any]) -> Outcome:
        return Success(msgspec.json.encode({"state": {"pad": "x" * 6_291_300}}), "request-1")

    it = world(
        stream_record(0, at=1000.0),
        stream_record(1, at=1000.0),
        policy=StreamPolicy(tumbling_window_s=60),
        limits=BatchLimits(1, 0.0),
        answer=answer,
    )
    async with it.running() as rig:
        await rig.until(lambda: 1 in it.function.seen, within_s=60.0)
    assert "window's state too large for its final call" in caplog.text
