"""Polling a Kinesis shard: its pace, and what it does when the service refuses."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import threading
from collections.abc import Iterator, Sequence

import pytest

from millstream.cli.embedded import TEST_CREDENTIALS
from millstream.contract.errors import PartitionGone, Refused, SourceUnavailable
from millstream.contract.records import Position
from millstream.contract.streams import After, At, Oldest, Partition, Start
from tests.brokers.kinesis_fake import ARN, NAME, SHARD, KinesisFake, Refusal, data, sequence, shard
from tests.contract.queue_kit import until
from tests.contract.streams import read
from tests.triggers.aggregates import packed
from tests.triggers.kinesis_rig import opened, reading
from tests.triggers.leaping_clock import LeapingClock


@pytest.fixture
def fake() -> Iterator[KinesisFake]:
    os.environ.update(TEST_CREDENTIALS)
    with KinesisFake() as running:
        yield running


async def test_the_first_read_is_made_at_once_and_an_idle_shard_is_read_once_a_second(
    fake: KinesisFake,
) -> None:
    clock = LeapingClock()
    fake.clock = clock.monotonic
    async with reading(fake, clock=clock) as reader:
        began_at = clock.at
        assert not (await reader.read(10, 0.0)).records
        assert clock.at == began_at
        assert not (await reader.read(10, 3.5)).records
    assert [at - began_at for at in fake.asked_at["GetRecords"]] == pytest.approx([0, 1, 2, 3])


async def test_a_shard_with_records_is_read_five_times_a_second_for_two_seconds_more(
    fake: KinesisFake,
) -> None:
    clock = LeapingClock()
    fake.clock = clock.monotonic
    fake.put(b"x")
    async with reading(fake, clock=clock) as reader:
        began_at = clock.at
        assert data((await reader.read(10, 0.0)).records) == ["x"]
        await reader.read(10, 5.0)
    gaps = _gaps([at - began_at for at in fake.asked_at["GetRecords"]])
    assert gaps[:10] == pytest.approx([0.2] * 10)
    assert gaps[10:] == pytest.approx([1.0] * len(gaps[10:]))
    assert len(gaps) > 11


async def test_a_shard_that_is_behind_is_read_five_times_a_second_though_its_pages_are_empty(
    fake: KinesisFake,
) -> None:
    clock = LeapingClock()
    fake.clock = clock.monotonic
    fake.behind_ms = 5000
    async with reading(fake, clock=clock) as reader:
        page = await reader.read(10, 4.0)
    assert page.lag_s == 5.0
    gaps = _gaps(fake.asked_at["GetRecords"])
    assert gaps == pytest.approx([0.2] * len(gaps))
    assert 19 <= len(gaps) <= 20


async def test_reads_that_are_asked_for_without_a_pause_keep_the_pace(fake: KinesisFake) -> None:
    clock = LeapingClock()
    fake.clock = clock.monotonic
    for number in range(6):
        fake.put(str(number).encode())
    async with reading(fake, clock=clock) as reader:
        assert data(await read(reader, 6, limit=1)) == list("012345")
    assert _gaps(fake.asked_at["GetRecords"]) == pytest.approx([0.2] * 5)


async def test_no_call_asks_for_more_than_the_service_gives(fake: KinesisFake) -> None:
    async with reading(fake) as reader:
        await reader.read(25_000, 0.0)
    assert [request["Limit"] for request in fake.asked("GetRecords")] == [10_000]


async def test_an_expired_iterator_is_renewed_behind_the_last_record(fake: KinesisFake) -> None:
    for number in range(4):
        fake.put(str(number).encode())
    async with reading(fake, clock=LeapingClock()) as reader:
        records = await read(reader, 2, limit=2)
        fake.refusals["GetRecords"].append(Refusal("ExpiredIteratorException"))
        records += await read(reader, 2)
    assert data(records) == list("0123")
    renewed = fake.asked("GetShardIterator")[-1]
    assert renewed["ShardIteratorType"] == "AFTER_SEQUENCE_NUMBER"
    assert renewed["StartingSequenceNumber"] == sequence(1)


@pytest.mark.parametrize(
    ("start", "asked"),
    [
        (Oldest(), {"ShardIteratorType": "TRIM_HORIZON"}),
        (At(1_760_000_000.5), {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": 1_760_000_000.5}),
        (
            After(Position("7")),
            {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": "7"},
        ),
        (
            After(Position("7:2")),
            {"ShardIteratorType": "AT_SEQUENCE_NUMBER", "StartingSequenceNumber": "7"},
        ),
    ],
)
async def test_an_iterator_that_expires_before_a_record_came_begins_at_the_start_again(
    fake: KinesisFake, start: Start, asked: dict[str, object]
) -> None:
    async with reading(fake, start, LeapingClock()) as reader:
        await reader.read(10, 0.0)
        fake.refusals["GetRecords"].append(Refusal("ExpiredIteratorException"))
        await reader.read(10, 1.0)
    expected = {"StreamName": NAME, "ShardId": SHARD, **asked}
    assert fake.asked("GetShardIterator") == [expected, expected]


async def test_an_iterator_that_stays_expired_is_a_source_that_does_not_answer(fake: KinesisFake) -> None:
    fake.refusals["GetRecords"].extend([Refusal("ExpiredIteratorException")] * 2)
    async with reading(fake, clock=LeapingClock()) as reader:
        with pytest.raises(SourceUnavailable):
            await reader.read(10, 0.0)


async def test_records_before_a_time_within_their_second_are_left_out(fake: KinesisFake) -> None:
    for at in (1_759_999_999.9, 1_760_000_000.2, 1_760_000_000.7, 1_760_000_000.6):
        fake.put(str(at).encode(), at=at)
    async with reading(fake, At(1_760_000_000.5)) as reader:
        assert data(await read(reader, 2)) == ["1760000000.7", "1760000000.6"]


async def test_a_lost_position_is_told_once(fake: KinesisFake, caplog: pytest.LogCaptureFixture) -> None:
    fake.put(b"oldest")
    fake.refusals["GetShardIterator"].append(Refusal("InvalidArgumentException"))
    with caplog.at_level(logging.WARNING):
        async with reading(fake, After(Position("1")), LeapingClock()) as reader:
            assert data(await read(reader, 1)) == ["oldest"]
            fake.refusals["GetRecords"].append(Refusal("ExpiredIteratorException"))
            await reader.read(10, 1.0)
    told = [line for line in caplog.records if line.name.startswith("millstream")]
    assert [line.getMessage() for line in told] == [
        "position not in the stream any more: from the oldest record"
    ]


@pytest.mark.parametrize("code", ["ProvisionedThroughputExceededException", "KMSThrottlingException"])
async def test_a_throttle_is_a_source_that_does_not_answer_and_loses_nothing(
    fake: KinesisFake, code: str
) -> None:
    fake.put(b"x")
    fake.refusals["GetRecords"].extend([Refusal(code)] * 2)
    async with reading(fake) as reader:
        with pytest.raises(SourceUnavailable, match=code):
            await read(reader, 1)
        fake.refusals["GetRecords"].clear()
        assert data(await read(reader, 1)) == ["x"]


@pytest.mark.parametrize("code", ["AccessDeniedException", "KMSAccessDeniedException"])
async def test_a_refusal_names_its_code(fake: KinesisFake, code: str) -> None:
    fake.refusals["GetRecords"].append(Refusal(code))
    async with reading(fake) as reader:
        with pytest.raises(Refused, match=code):
            await reader.read(10, 0.0)


@pytest.mark.parametrize("status", [None, "DELETING"])
async def test_a_stream_that_is_deleted_in_mid_run_is_named(fake: KinesisFake, status: str | None) -> None:
    async with reading(fake, clock=LeapingClock()) as reader:
        await reader.read(10, 0.0)
        for operation in ("GetRecords", "GetShardIterator"):
            fake.refusals[operation].append(Refusal("ResourceNotFoundException"))
        fake.status = status
        with pytest.raises(Refused, match=NAME):
            await reader.read(10, 1.0)


async def test_a_shard_that_leaves_the_list_is_gone_while_its_stream_stays(fake: KinesisFake) -> None:
    fake.shards = [shard(), shard("shardId-000000000001", ParentShardId=SHARD)]
    async with opened(fake, LeapingClock()) as source:
        assert [partition.id for partition in await source.partitions()] == [SHARD, "shardId-000000000001"]
        reader = await source.reader(Partition(SHARD), Oldest())
        del fake.shards[0]
        (left,) = await source.partitions()
        assert left.parents == {SHARD}
        with pytest.raises(PartitionGone, match=SHARD):
            await reader.read(10, 0.0)


async def test_a_reader_of_a_stream_that_was_made_anew_reads_nothing_of_the_new_one(
    fake: KinesisFake,
) -> None:
    fake.put(b"old")
    async with opened(fake, LeapingClock()) as source:
        (shard_of_both,) = await source.partitions()
        reader = await source.reader(shard_of_both, Oldest())
        assert data(await read(reader, 1)) == ["old"]
        fake.created_at += 1
        fake.records.clear()
        fake.put(b"new")
        fake.put(b"newer")
        await source.partitions()
        with pytest.raises(PartitionGone, match="made anew"):
            await reader.read(10, 0.0)
        fresh = await source.reader(shard_of_both, Oldest())
        assert data(await read(fresh, 2)) == ["new", "newer"]


async def test_an_iterator_that_is_not_found_is_renewed_behind_the_last_record(fake: KinesisFake) -> None:
    for number in range(3):
        fake.put(str(number).encode())
    async with reading(fake, clock=LeapingClock()) as reader:
        records = await read(reader, 2, limit=2)
        fake.refusals["GetRecords"].append(Refusal("ResourceNotFoundException"))
        records += await read(reader, 1)
    assert data(records) == list("012")


async def test_a_shard_that_is_listed_but_not_found_is_unavailable(fake: KinesisFake) -> None:
    fake.put(b"x")
    async with reading(fake, clock=LeapingClock()) as reader:
        fake.refusals["GetShardIterator"].append(Refusal("ResourceNotFoundException"))
        with pytest.raises(SourceUnavailable, match="listed, but not found"):
            await reader.read(10, 0.0)
        assert data(await read(reader, 1)) == ["x"]


async def test_a_position_that_is_not_found_for_once_is_read_on_from(
    fake: KinesisFake, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        fake.put(str(number).encode())
    fake.refusals["GetShardIterator"].append(Refusal("ResourceNotFoundException"))
    async with reading(fake, After(Position(sequence(1)))) as reader:
        assert data(await read(reader, 1)) == ["2"]
    assert not [line for line in caplog.records if line.name.startswith("millstream")]


async def test_a_shard_with_no_next_iterator_has_ended(fake: KinesisFake) -> None:
    fake.put(b"last")
    fake.closed = True
    async with reading(fake) as reader:
        page = await reader.read(10, 1.0)
        assert (data(page.records), page.ended) == (["last"], True)
        page = await reader.read(10, 1.0)
        assert (list(page.records), page.ended) == ([], True)
    assert len(fake.asked("GetRecords")) == 1


async def test_a_record_of_ten_megabytes_is_returned_as_any_other(fake: KinesisFake) -> None:
    fake.put(b"x" * 10 * 1024 * 1024)
    async with reading(fake) as reader:
        (record,) = await read(reader, 1)
    assert record.size_bytes > 13 * 1024 * 1024


async def test_what_a_cancelled_read_brought_is_read_by_the_next(fake: KinesisFake) -> None:
    fake.put(b"0")
    fake.put(b"1")
    async with reading(fake) as reader:
        assert data(await read(reader, 1, limit=1)) == ["0"]
        fake.holding = threading.Event()
        async with asyncio.TaskGroup() as group:
            poll = group.create_task(reader.read(10, 5.0))
            await until(lambda: len(fake.asked("GetRecords")) == 2)
            fake.holding.set()
            poll.cancel()
        assert data(await read(reader, 1)) == ["1"]


async def test_a_read_of_a_closed_reader_brings_nothing(fake: KinesisFake) -> None:
    async with reading(fake) as reader:
        await reader.aclose()
        assert not (await reader.read(10, 5.0)).records
    assert not fake.asked("GetRecords")


async def test_a_closed_source_answers_no_more(fake: KinesisFake) -> None:
    async with opened(fake) as source:
        await source.aclose()
        with pytest.raises(SourceUnavailable):
            await source.partitions()


async def test_packed_records_are_taken_apart_and_resumed_in_their_middle(fake: KinesisFake) -> None:
    fake.put(b"plain")
    fake.put(packed(("a", None, b"0"), ("b", None, b"1"), ("a", None, b"2")))
    fake.put(b"end")
    async with reading(fake, deaggregate=True) as reader:
        records = await read(reader, 5, limit=2)
    assert data(records) == ["plain", "0", "1", "2", "end"]
    assert [record.ordering_key for record in records] == ["k", "a", "b", "a", "k"]
    positions = [sequence(0), *(f"{sequence(1)}:{n}" for n in range(3)), sequence(2)]
    assert [record.position for record in records] == positions
    assert [record.item_id for record in records] == [sequence(n) for n in (0, 1, 1, 1, 2)]
    for place, record in enumerate(records[:-1]):
        async with reading(fake, After(record.position), deaggregate=True) as reader:
            rest = await read(reader, 4 - place)
            assert [one.position for one in rest] == positions[place + 1 :]


async def test_a_packed_position_brings_the_whole_record_where_none_is_taken_apart(
    fake: KinesisFake,
) -> None:
    fake.put(packed(("a", None, b"0"), ("b", None, b"1")))
    async with reading(fake, After(Position(f"{sequence(0)}:0"))) as reader:
        (record,) = await read(reader, 1)
    assert record.position == sequence(0)


async def test_a_shard_is_asked_for_by_what_the_stream_was_declared_by(fake: KinesisFake) -> None:
    for stream, called in ((NAME, {"StreamName": NAME}), (ARN, {"StreamARN": ARN})):
        fake.requests.clear()
        async with opened(fake, stream=stream) as source:
            await source.partitions()
            reader = await source.reader(Partition(SHARD), Oldest())
            await reader.read(10, 0.0)
        for operation in ("DescribeStreamSummary", "ListShards", "GetShardIterator"):
            for request in fake.asked(operation):
                assert {name: value for name, value in request.items() if name.startswith("Stream")} == called


def _gaps(times: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(times)]
