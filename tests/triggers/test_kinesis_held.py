"""What a reader of Kinesis holds: packed bytes, of which no more events are made than are asked for."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.cli.embedded import TEST_CREDENTIALS
from millstream.contract.clock import SystemClock
from millstream.contract.ports import Host
from millstream.contract.records import Position, Record
from millstream.contract.streams import Oldest, Partition
from millstream.triggers.kinesis import KinesisTrigger
from millstream.triggers.kinesis_held import (
    LEAST_PART_BYTES,
    MOST_PART_BYTES,
    Backlog,
    Buffer,
    Held,
)
from millstream.triggers.kinesis_records import HashRange, RecordMaker
from millstream.triggers.kinesis_wire import KinesisRecord
from tests.brokers.kinesis_fake import ARN, CONSUMER_ARN, NAME, SHARD, KinesisFake, sequence
from tests.contract.queue_kit import FUNCTION, NoInvoker
from tests.triggers.aggregates import number, packed, sealed, sized

MEGABYTE = 1024 * 1024
PACKED = 10_000  # records of one aggregate, each of which names a long key, of six bytes a character in JSON
LONG_KEYED = sealed(sized(1, b"\x01" * 1024) + sized(3, number(1, 0) + sized(3, b"")) * PACKED)


@pytest.fixture
def fake() -> Iterator[KinesisFake]:
    os.environ.update(TEST_CREDENTIALS)
    with KinesisFake() as running:
        yield running


def record(place: int) -> Record:
    position = str(place)
    return Record(
        partition=SHARD,
        position=Position(position),
        item_id=position,
        event=b"{}",
        arrived_at=0.0,
        received_at=0.0,
    )


def found(place: int, data: bytes) -> KinesisRecord:
    return KinesisRecord("k", sequence(place), 1.0, msgspec.Raw(msgspec.json.encode(data)))


def maker(hash_range: HashRange | None = None, unpacks: bool = True) -> RecordMaker:
    return RecordMaker.of(SHARD, ARN, unpacks, hash_range)


@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=8),  # 0: a plain one; else so many are packed
    st.booleans(),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 2000)), min_size=1, max_size=40),
)
def test_the_parts_are_all_records_in_their_order_whatever_the_parts_sizes(
    sizes: list[int], unpacks: bool, limits: list[tuple[int, int]]
) -> None:
    page = [
        found(place, packed(*[("k", None, b"%d" % n) for n in range(size)]) if size else b"plain")
        for place, size in enumerate(sizes)
    ]
    whole, rest = Held(maker(unpacks=unpacks), page, 5.0).part(1000, 1e9)
    assert rest.empty
    held, parts, step = Held(maker(unpacks=unpacks), page, 5.0), [], 0
    while not held.empty:
        limit, most_bytes = limits[step % len(limits)]
        step += 1
        part, behind = held.part(limit, most_bytes)
        assert held.part(limit, most_bytes)[0] == part  # it stays as it is
        assert 1 <= len(part) <= limit
        assert sum(len(one.event) for one in part[:-1]) < most_bytes or not unpacks
        parts += part
        held = behind
    assert parts == whole
    assert (
        len({one.position for one in whole})
        == len(whole)
        == sum([size if size and unpacks else 1 for size in sizes])
    )


def test_a_part_that_is_of_other_shards_alone_is_passed_over() -> None:
    page = [found(0, packed(*[("a", "50", b"x")] * 20)), found(1, packed(("b", "5", b"y")))]
    (made,), rest = Held(maker(HashRange(0, 10)), page, 5.0).part(1, 1.0)
    assert (made.position, rest.empty) == (f"{sequence(1)}:0", True)


def test_a_page_of_nothing_is_one_part_of_nothing() -> None:
    assert [records for records, _ in Held(maker(), [], 5.0).parts(10, 1.0)] == [[]]


def test_a_packed_record_that_cannot_be_made_is_refused_and_spoils_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shard = HashRange(0, 2**128 - 1)
    held = Held(maker(shard), [found(0, packed(("a", "1", b"0"), ("b", "2", b"1"), ("c", "3", b"2")))], 5.0)

    def holds(_: HashRange, user: object) -> bool:
        if getattr(user, "partition_key", "") == "b":
            raise ZeroDivisionError
        return True

    monkeypatch.setattr(HashRange, "holds", holds)
    made, _ = held.part(10, 1e9)
    assert [one.position for one in made] == [f"{sequence(0)}:{sub}" for sub in range(3)]
    assert [one.refused is None for one in made] == [True, False, True]


def test_what_readers_may_hold_is_shared_among_those_that_are_open() -> None:
    buffer, readers = Buffer(64 * MEGABYTE), [Backlog() for _ in range(4)]
    assert (buffer.packed_bytes, buffer.part_bytes) == (32 * MEGABYTE, MOST_PART_BYTES)
    for reader in readers:
        buffer.join(reader)
        buffer.join(reader)
    assert (buffer.packed_bytes, buffer.part_bytes) == (8 * MEGABYTE, 2 * MEGABYTE)
    for reader in readers[1:]:
        buffer.leave(reader)
        buffer.leave(reader)
    assert buffer.packed_bytes == 32 * MEGABYTE
    assert Buffer(0).part_bytes == LEAST_PART_BYTES


def test_a_backlog_hands_out_pages_and_ends_with_the_last() -> None:
    backlog = Backlog()
    records = [record(place) for place in range(5)]
    backlog.add(records[:4], 1.0)
    pages = [backlog.take(3)]
    backlog.add(records[4:], 0.0, ended=True)
    pages += [backlog.take(1), backlog.take(9), backlog.take(9)]
    assert [list(page.records) for page in pages] == [records[:3], records[3:4], records[4:], []]
    assert [page.ended for page in pages] == [False, False, True, True]


@pytest.mark.parametrize("stream", [NAME, CONSUMER_ARN])
async def test_packed_records_that_become_a_hundred_megabytes_are_read_in_a_tenth_of_it(
    fake: KinesisFake, stream: str
) -> None:
    events = 2
    for _ in range(events):
        fake.put(LONG_KEYED)
    options = {"stream": stream, "starting_position": "TRIM_HORIZON", "deaggregate": True}
    host = Host(Path("/none"), SystemClock(), NoInvoker(), fake.url, "us-east-1")
    host = replace(host, buffer_bytes=8 * MEGABYTE)
    source = await KinesisTrigger.parse(options).open(host, FUNCTION)
    reader = await source.reader(Partition(SHARD), Oldest())
    read = size = 0
    tracemalloc.start()
    try:
        while read < events * PACKED:
            page = await reader.read(10_000, 5.0)
            read += len(page.records)
            size += sum([len(one.event) for one in page.records])
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        await reader.aclose()
        await source.aclose()
    assert read == events * PACKED
    assert size > 100 * MEGABYTE
    assert most < 10 * MEGABYTE


async def test_a_small_buffer_has_fewer_packed_records_asked_for(fake: KinesisFake) -> None:
    for _ in range(20):
        fake.put(packed(("k", None, b"x" * 10_000)))
    options = {"stream": NAME, "starting_position": "TRIM_HORIZON", "deaggregate": True}
    host = Host(Path("/none"), SystemClock(), NoInvoker(), fake.url, "us-east-1")
    source = await KinesisTrigger.parse(options).open(replace(host, buffer_bytes=100_000), FUNCTION)
    reader = await source.reader(Partition(SHARD), Oldest())
    read = 0
    while read < 20:
        read += len((await reader.read(10_000, 1.0)).records)
    asked = [request["Limit"] for request in fake.asked("GetRecords")]
    assert asked[:2] == [1, 3]  # half of the buffer, first by the largest, then by what was seen
    await reader.aclose()
    await source.aclose()


async def test_a_cancelled_read_of_a_part_loses_none_of_it(fake: KinesisFake) -> None:
    fake.put(packed(*[("k", None, b"%d" % place) for place in range(9)]))
    options = {"stream": NAME, "starting_position": "TRIM_HORIZON", "deaggregate": True}
    host = Host(Path("/none"), SystemClock(), NoInvoker(), fake.url, "us-east-1")
    source = await KinesisTrigger.parse(options).open(host, FUNCTION)
    reader = await source.reader(Partition(SHARD), Oldest())
    positions = [one.position for one in (await reader.read(3, 5.0)).records]
    while len(positions) < 9:
        async with asyncio.TaskGroup() as group:
            cut = group.create_task(reader.read(3, 5.0))
            await asyncio.sleep(0)  # it waits for its thread
            cut.cancel()
        assert cut.cancelled()
        positions += [one.position for one in (await reader.read(3, 5.0)).records]
    assert positions == [f"{sequence(0)}:{sub}" for sub in range(9)]
    await reader.aclose()
    await source.aclose()
