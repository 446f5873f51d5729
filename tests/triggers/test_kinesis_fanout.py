"""Enhanced fan-out: renewing subscriptions, resuming them, and reading no faster than the runner."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from millstream.cli.embedded import TEST_CREDENTIALS
from millstream.contract.clock import Clock, SystemClock
from millstream.contract.errors import PartitionGone, Refused, SourceUnavailable
from millstream.contract.records import Position, Reason
from millstream.contract.streams import After, At, Oldest, Partition, Start, StreamReader
from millstream.triggers.kinesis import KinesisTrigger
from tests.brokers.kinesis_fake import CONSUMER_ARN, NAME, SHARD, KinesisFake, Refusal, data, sequence, shard
from tests.contract.queue_kit import FUNCTION, until
from tests.contract.streams import host, read, read_to_the_end
from tests.triggers.aggregates import packed

WITHIN_S = 20.0
MEGABYTE = 1024 * 1024


@pytest.fixture
def fake() -> Iterator[KinesisFake]:
    os.environ.update(TEST_CREDENTIALS)
    with KinesisFake() as running:
        yield running


@asynccontextmanager
async def reading(
    fake: KinesisFake, start: Start | None = None, clock: Clock | None = None, **options: object
) -> AsyncIterator[StreamReader]:
    declared = {"stream": CONSUMER_ARN, "starting_position": "TRIM_HORIZON", **options}
    source = await KinesisTrigger.parse(declared).open(host(fake.url, clock), FUNCTION)
    await source.partitions()
    reader = await source.reader(Partition(SHARD), start or Oldest())
    try:
        async with asyncio.timeout(WITHIN_S):
            yield reader
    finally:
        await reader.aclose()
        await source.aclose()


def event(*numbers: int, goes_on_at: int | None = None, **more: Any) -> dict[str, Any]:
    """An event with records of those numbers, whose data are the numbers."""
    last = goes_on_at if goes_on_at is not None else numbers[-1]
    return {
        "Records": [KinesisFake.record(number, str(number).encode()) for number in numbers],
        "ContinuationSequenceNumber": sequence(last),
        "MillisBehindLatest": 0,
        **more,
    }


async def test_a_subscription_that_ends_is_renewed_behind_its_last_record(fake: KinesisFake) -> None:
    fake.scripts.extend([[event(0, 1), event(2)], [event(3)]])
    async with reading(fake) as reader:
        assert data(await read(reader, 4)) == list("0123")
    first, second = fake.asked("SubscribeToShard")[:2]
    assert first["StartingPosition"] == {"Type": "TRIM_HORIZON"}
    assert second["StartingPosition"] == {"Type": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": sequence(2)}


async def test_a_subscription_without_records_goes_on_where_the_service_says(fake: KinesisFake) -> None:
    fake.scripts.extend([[event(goes_on_at=5)], [event(6)]])
    async with reading(fake) as reader:
        assert data(await read(reader, 1)) == ["6"]
    assert fake.asked("SubscribeToShard")[1]["StartingPosition"]["SequenceNumber"] == sequence(5)


async def test_subscriptions_to_a_shard_are_at_least_a_second_apart(fake: KinesisFake) -> None:
    fake.scripts.extend([[event(0)], [event(1)], [event(2)]])
    async with reading(fake) as reader:
        await read(reader, 3)
    first, second, third = fake.asked_at["SubscribeToShard"][:3]
    assert second - first >= 0.9
    assert third - second >= 0.9


async def test_a_fault_comes_after_the_records_before_it_and_is_read_over(fake: KinesisFake) -> None:
    fake.scripts.extend([[event(0), Refusal("InternalFailureException"), event(9)], [event(1)]])
    async with reading(fake) as reader:
        assert data(await read(reader, 1)) == ["0"]
        with pytest.raises(SourceUnavailable, match="InternalFailureException"):
            await read(reader, 1)
        assert data(await read(reader, 1)) == ["1"]


@pytest.mark.parametrize("within", [False, True])
async def test_a_subscription_refused_for_a_moment_is_asked_for_again(
    fake: KinesisFake, within: bool
) -> None:
    busy = Refusal("ResourceInUseException")
    if within:
        fake.scripts.append([busy])
    else:
        fake.refusals["SubscribeToShard"].append(busy)
    fake.scripts.append([event(0)])
    async with reading(fake) as reader:
        assert data(await read(reader, 1)) == ["0"]


async def test_a_lost_position_is_told_and_begins_at_the_oldest(
    fake: KinesisFake, caplog: pytest.LogCaptureFixture
) -> None:
    fake.put(b"oldest")
    fake.refusals["SubscribeToShard"].append(Refusal("InvalidArgumentException"))
    with caplog.at_level(logging.WARNING):
        async with reading(fake, After(Position("1"))) as reader:
            assert data(await read(reader, 1)) == ["oldest"]
    told = [line.getMessage() for line in caplog.records if line.name.startswith("millstream")]
    assert told == ["position not in the stream any more: from the oldest record"]


async def test_records_before_a_time_within_their_second_are_left_out(fake: KinesisFake) -> None:
    for at in (1_760_000_000.2, 1_760_000_000.7):
        fake.put(str(at).encode(), at=at)
    async with reading(fake, At(1_760_000_000.5)) as reader:
        assert data(await read(reader, 1)) == ["1760000000.7"]


class BrokenInThreads(SystemClock):
    """A clock that fails where a subscription's thread asks it, while `broken`."""

    broken = True

    def monotonic(self) -> float:
        if self.broken and threading.current_thread().name.startswith("kinesis-fanout"):
            raise ZeroDivisionError
        return super().monotonic()


async def test_any_fault_in_the_thread_is_handed_over_and_read_over(
    fake: KinesisFake, caplog: pytest.LogCaptureFixture
) -> None:
    fake.put(b"x")
    clock = BrokenInThreads()
    async with reading(fake, clock=clock) as reader:
        with pytest.raises(SourceUnavailable, match="ZeroDivisionError"):
            await reader.read(10, 5.0)
        clock.broken = False
        assert data(await read(reader, 1)) == ["x"]
    assert "subscription failed, it is made again" in [line.getMessage() for line in caplog.records]


async def test_a_host_that_has_no_thread_left_is_told_and_read_over(
    fake: KinesisFake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.put(b"x")

    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with reading(fake) as reader:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", none_left)
            with pytest.raises(SourceUnavailable, match="thread"):
                await reader.read(10, 5.0)
        assert data(await read(reader, 1)) == ["x"]


async def test_a_reader_of_a_stream_that_was_made_anew_reads_nothing_of_the_new_one(
    fake: KinesisFake,
) -> None:
    declared = {"stream": CONSUMER_ARN, "starting_position": "TRIM_HORIZON"}
    source = await KinesisTrigger.parse(declared).open(host(fake.url), FUNCTION)
    (shard_of_both,) = await source.partitions()
    reader = await source.reader(shard_of_both, Oldest())
    fake.put(b"new")
    fake.created_at += 1
    await source.partitions()
    with pytest.raises(PartitionGone, match="made anew"):
        await reader.read(10, 0.0)
    await reader.aclose()
    await source.aclose()


async def test_a_shard_that_is_listed_but_not_found_is_unavailable(fake: KinesisFake) -> None:
    fake.put(b"0")
    fake.put(b"1")
    fake.refusals["SubscribeToShard"].append(Refusal("ResourceNotFoundException"))
    async with reading(fake, After(Position(sequence(0)))) as reader:
        with pytest.raises(SourceUnavailable, match="listed, but not found"):
            await read(reader, 1)
        assert data(await read(reader, 1)) == ["1"]


async def test_a_record_that_cannot_be_read_is_refused_and_spoils_no_other(fake: KinesisFake) -> None:
    spoiled = event(0, 1, 2)
    spoiled["Records"][1]["PartitionKey"] = None
    fake.scripts.append([spoiled])
    async with reading(fake) as reader:
        records = await read(reader, 3)
    assert [record.position for record in records] == [sequence(number) for number in range(3)]
    assert [record.refused for record in records] == [None, Reason.DESERIALIZATION_ERROR, None]


async def test_a_shard_whose_children_are_named_has_ended(fake: KinesisFake) -> None:
    fake.put(b"last")
    fake.closed = True
    async with reading(fake) as reader:
        assert data(await read_to_the_end(reader)) == ["last"]
        page = await reader.read(10, 5.0)
        assert (list(page.records), page.ended) == ([], True)
    assert len(fake.asked("SubscribeToShard")) == 1


async def test_a_shard_that_leaves_the_list_is_gone_while_its_stream_stays(fake: KinesisFake) -> None:
    fake.shards = [shard("shardId-000000000001")]
    async with reading(fake) as reader:
        with pytest.raises(PartitionGone, match=SHARD):
            await read(reader, 1)


async def test_a_stream_that_is_deleted_in_mid_run_is_named(fake: KinesisFake) -> None:
    fake.scripts.append([event(0), Refusal("ResourceNotFoundException")])
    async with reading(fake) as reader:
        await read(reader, 1)
        fake.status = "DELETING"
        with pytest.raises(Refused, match=NAME):
            await read(reader, 1)


async def test_a_consumer_that_is_deleted_in_mid_run_is_named(fake: KinesisFake) -> None:
    fake.scripts.append([event(0)])
    async with reading(fake) as reader:
        await read(reader, 1)
        fake.consumer_status = None
        with pytest.raises(Refused, match="consumer/c"):
            await read(reader, 1)


async def test_a_page_is_no_larger_than_asked_for_though_an_event_is(fake: KinesisFake) -> None:
    fake.scripts.append([event(*range(10))])
    async with reading(fake) as reader:
        pages = [data((await reader.read(4, 5.0)).records) for _ in range(3)]
    assert pages == [list("0123"), list("4567"), list("89")]


async def test_the_connection_is_read_no_faster_than_the_runner_reads(fake: KinesisFake) -> None:
    events = [{**event(n), "Records": [KinesisFake.record(n, bytes(MEGABYTE))]} for n in range(60)]
    fake.scripts.append(list(events))
    async with reading(fake) as reader:
        records = await read(reader, 1)
        await until(lambda: bool(fake.sent_at) and time.monotonic() > fake.sent_at[-1] + 0.5)
        assert len(fake.sent_at) < 40  # the rest waits behind the sockets' buffers
        records += await read(reader, 59)
    assert [record.position for record in records] == [sequence(number) for number in range(60)]


async def test_packed_records_are_taken_apart_resumed_and_kept_to_their_shard(fake: KinesisFake) -> None:
    middle = 2**127
    fake.shards = [shard(HashKeyRange={"StartingHashKey": "0", "EndingHashKey": str(middle)})]
    fake.put(packed(("a", "1", b"0"), ("b", str(middle + 1), b"1"), ("c", "2", b"2")))
    async with reading(fake, deaggregate=True) as reader:
        records = await read(reader, 2)
    assert data(records) == ["0", "2"]
    async with reading(fake, After(records[0].position), deaggregate=True) as reader:
        assert data(await read(reader, 1)) == ["2"]
    asked = fake.asked("SubscribeToShard")[-1]["StartingPosition"]
    assert asked == {"Type": "AT_SEQUENCE_NUMBER", "SequenceNumber": sequence(0)}


async def test_the_service_says_by_an_empty_event_that_all_is_read(fake: KinesisFake) -> None:
    silence = threading.Event()
    fake.scripts.append([event(goes_on_at=0), silence])
    async with reading(fake) as reader:
        page = await reader.read(10, 0.5)
        assert (list(page.records), page.lag_s) == ([], 0.0)
        silence.set()


async def test_a_service_that_is_silent_does_not_say_that_all_is_read(fake: KinesisFake) -> None:
    silence = threading.Event()
    fake.scripts.append([event(0), silence])
    async with reading(fake) as reader:
        await read(reader, 1)
        page = await reader.read(10, 0.2)
        assert (list(page.records), page.lag_s) == ([], None)
        silence.set()


async def test_a_subscription_that_takes_its_time_does_not_say_that_all_is_read(fake: KinesisFake) -> None:
    silence = threading.Event()
    fake.scripts.append([silence, event(0)])
    async with reading(fake) as reader:
        page = await reader.read(10, 0.2)
        assert (list(page.records), page.lag_s) == ([], None)
        silence.set()
        assert data(await read(reader, 1)) == ["0"]


async def test_an_empty_event_that_waited_does_not_say_that_all_is_read(fake: KinesisFake) -> None:
    """It was true as it was sent; here the second one is read long after that."""
    silence = threading.Event()
    fake.scripts.append([event(0), event(goes_on_at=0), silence])
    async with reading(fake) as reader:
        await read(reader, 1)
        await until(lambda: len(fake.sent_at) == 2 and time.monotonic() > fake.sent_at[-1] + 0.3)
        page = await reader.read(10, 0.2)
        assert (list(page.records), page.lag_s) == ([], None)
        silence.set()


async def test_a_closed_reader_ends_the_read_in_flight(fake: KinesisFake) -> None:
    async with reading(fake) as reader, asyncio.TaskGroup() as group:
        poll = group.create_task(reader.read(10, WITHIN_S))
        await until(lambda: bool(fake.asked("SubscribeToShard")))
        began_at = time.monotonic()
        await reader.aclose()
        assert not (await poll).records
        assert time.monotonic() - began_at < 1.0
