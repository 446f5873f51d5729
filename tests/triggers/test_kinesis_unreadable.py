"""Pages and records of Kinesis that make no sense: the others are read, and no gap is passed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from millstream.cli.embedded import TEST_CREDENTIALS
from millstream.contract.errors import SourceUnavailable
from millstream.contract.records import Reason
from tests.brokers.kinesis_fake import SHARD, KinesisFake, data, sequence
from tests.contract.streams import read
from tests.triggers.kinesis_rig import reading
from tests.triggers.leaping_clock import LeapingClock


@pytest.fixture
def fake() -> Iterator[KinesisFake]:
    os.environ.update(TEST_CREDENTIALS)
    with KinesisFake() as running:
        yield running


async def test_an_answer_that_is_no_json_is_a_source_that_does_not_answer(fake: KinesisFake) -> None:
    fake.body = b'{"Records": [{"Seq'
    fake.put(b"x")
    async with reading(fake, clock=LeapingClock()) as reader:
        with pytest.raises(SourceUnavailable):
            await reader.read(10, 5.0)
        fake.body = None
        assert data(await read(reader, 1)) == ["x"]


async def test_an_answer_without_records_is_no_end_of_the_shard(fake: KinesisFake) -> None:
    fake.body = b"{}"
    fake.put(b"x")
    async with reading(fake, clock=LeapingClock()) as reader:
        with pytest.raises(SourceUnavailable):
            await reader.read(10, 5.0)
        fake.body = None
        assert data(await read(reader, 1)) == ["x"]


async def test_a_record_that_cannot_be_read_is_refused_and_spoils_no_other(
    fake: KinesisFake, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(4):
        fake.put(str(number).encode())
    fake.records[1]["PartitionKey"] = {"not": "a text"}
    fake.records[2]["Data"] = 7
    async with reading(fake) as reader:
        records = await read(reader, 4)
    assert [record.position for record in records] == [sequence(number) for number in range(4)]
    refused = Reason.DESERIALIZATION_ERROR
    assert [record.refused for record in records] == [None, refused, refused, None]
    assert data([records[0], records[3]]) == ["0", "3"]
    told = [line for line in caplog.records if line.name.startswith("millstream")]
    assert [line.getMessage() for line in told] == ["record that cannot be read is given up"]
    assert (told[0].shard, told[0].position) == (SHARD, sequence(1))  # type: ignore[attr-defined]  # extra


async def test_half_a_surrogate_pair_in_a_partition_key_reaches_the_function_escaped(
    fake: KinesisFake,
) -> None:
    fake.put(b"0", key="half \ud83d")
    fake.put(b"1")
    async with reading(fake) as reader:
        records = await read(reader, 2)
    assert json.loads(records[0].event)["kinesis"]["partitionKey"] == "half \ud83d"
    assert records[0].refused is None
    assert (records[0].ordering_key or "").encode() == b"half \\ud83d"
    assert data(records) == ["0", "1"]


async def test_what_is_before_a_record_that_spoils_its_page_is_read_and_nothing_behind_it(
    fake: KinesisFake, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(9):
        fake.put(str(number).encode())
    del fake.records[5]["SequenceNumber"]
    async with reading(fake, clock=LeapingClock()) as reader:
        assert data(await read(reader, 5)) == list("01234")
        for _ in range(3):
            with pytest.raises(SourceUnavailable, match="without a sequence number"):
                await reader.read(1000, 5.0)
        fake.records[5]["SequenceNumber"] = sequence(5)
        assert data(await read(reader, 4)) == list("5678")
    told = [line.getMessage() for line in caplog.records if line.name.startswith("millstream")]
    assert told == ["record that makes its page unreadable, asked for again"]
